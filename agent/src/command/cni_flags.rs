//! The flags that say where the CNI plug-in goes.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "CNI plug-in")]
pub(super) struct CniArgs {
    /// Folder of this node's network configurations, usually /etc/cni/net.d. With --cni-bin-dir: the agent puts its
    /// plug-in into the one in use and keeps it there, so that a pod of the mesh starts when it is captured
    #[arg(long, env = "WEFT_CNI_CONF_DIR", value_name = "DIR", requires = "cni_bin_dir")]
    cni_conf_dir: Option<PathBuf>,

    /// Folder of this node's CNI plug-ins, usually /opt/cni/bin
    #[arg(long, env = "WEFT_CNI_BIN_DIR", value_name = "DIR", requires = "cni_conf_dir")]
    cni_bin_dir: Option<PathBuf>,
}

/// Where the CNI plug-in goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniFolders {
    /// The folder of network configurations.
    pub conf_dir: PathBuf,
    /// The folder of plug-ins.
    pub bin_dir: PathBuf,
}

impl CniArgs {
    pub(super) fn into_folders(self) -> Option<CniFolders> {
        let (conf_dir, bin_dir) = self.cni_conf_dir.zip(self.cni_bin_dir)?;
        Some(CniFolders { conf_dir, bin_dir })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        cni: CniArgs,
    }

    #[test]
    fn both_folders_are_given_or_neither() {
        let parse = |arguments: &[&str]| {
            Line::try_parse_from([&["weft"], arguments].concat()).map(|line| line.cni.into_folders())
        };
        assert_eq!(parse(&[]).unwrap(), None);
        let folders = CniFolders { conf_dir: "/c".into(), bin_dir: "/b".into() };
        assert_eq!(parse(&["--cni-conf-dir", "/c", "--cni-bin-dir", "/b"]).unwrap(), Some(folders));
        assert!(parse(&["--cni-conf-dir", "/c"]).is_err());
        assert!(parse(&["--cni-bin-dir", "/b"]).is_err());
    }
}
