//! What a call says beside its standard input: its variables.

use std::path::{Path, PathBuf};

use super::Failure;

/// The longest names that Kubernetes has, and that a runtime's id may have.
const MAX_NAME: usize = 253;

/// A call of the plug-in, its variables checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// A sandbox was made.
    Add(Attachment),
    /// A sandbox goes. It may be gone already, and be asked for again.
    Del(Attachment),
    /// Is all as it should be?
    Check(Attachment),
    /// Could a sandbox be added?
    Status,
    /// What is not in the configuration's list is gone.
    Gc,
    /// Which versions are spoken?
    Version,
}

/// A sandbox that is to be, or was, connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    /// The runtime's id of the sandbox.
    pub(super) container: String,
    /// Its network namespace; empty for a DEL after that is gone.
    pub(super) netns: PathBuf,
    /// Its pod; `None`: it is none of Kubernetes'.
    pub(super) pod: Option<PodArguments>,
}

/// What `CNI_ARGS` says of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodArguments {
    /// `K8S_POD_NAMESPACE`
    pub namespace: String,
    /// `K8S_POD_NAME`
    pub name: String,
    /// `K8S_POD_UID`, or empty.
    pub uid: String,
}

impl Call {
    /// Reads the variables that `variable` looks up.
    ///
    /// # Errors
    /// One that the command needs is missing or is not what it should be.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let needed = |name: &str| variable(name).ok_or_else(|| environment(format!("{name} is missing")));
        let attachment = |needs_netns: bool| {
            let container = needed("CNI_CONTAINERID")?;
            if !is_container_id(&container) {
                return Err(environment(format!("CNI_CONTAINERID {container:?} is not an id")));
            }
            needed("CNI_IFNAME")?;
            let netns = if needs_netns { Some(needed("CNI_NETNS")?) } else { variable("CNI_NETNS") };
            let netns = PathBuf::from(netns.unwrap_or_default());
            if needs_netns && !netns.is_absolute() {
                return Err(environment(format!("CNI_NETNS {} is not an absolute path", netns.display())));
            }
            let pod = PodArguments::read(&variable("CNI_ARGS").unwrap_or_default())?;
            Ok(Attachment { container, netns, pod })
        };
        match needed("CNI_COMMAND")?.as_str() {
            "ADD" => attachment(true).map(Self::Add),
            "DEL" => attachment(false).map(Self::Del),
            "CHECK" => attachment(true).map(Self::Check),
            "STATUS" => Ok(Self::Status),
            "GC" => Ok(Self::Gc),
            "VERSION" => Ok(Self::Version),
            other => Err(environment(format!("CNI_COMMAND {other:?} is not a command"))),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Del(_) => "DEL",
            Self::Check(_) => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    pub(super) fn attachment(&self) -> Option<&Attachment> {
        match self {
            Self::Add(attachment) | Self::Del(attachment) | Self::Check(attachment) => Some(attachment),
            Self::Status | Self::Gc | Self::Version => None,
        }
    }
}

impl PodArguments {
    /// Reads `CNI_ARGS`: pairs as in `IgnoreUnknown=1;K8S_POD_NAME=web`. Pairs that say nothing of the pod are somebody
    /// else's. `None` when there is neither a name nor a namespace: then it is no pod of Kubernetes'.
    ///
    /// # Errors
    /// A pair is none, or a name is not one that Kubernetes has: it becomes part of a path on the API server.
    pub fn read(arguments: &str) -> Result<Option<Self>, Failure> {
        let (mut namespace, mut name, mut uid) = (None, None, None);
        for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| environment(format!("CNI_ARGS has {pair:?}, which is no pair")))?;
            let place = match key {
                "K8S_POD_NAMESPACE" => &mut namespace,
                "K8S_POD_NAME" => &mut name,
                "K8S_POD_UID" => &mut uid,
                _ => continue,
            };
            if !value.is_empty() && !is_name(value) {
                return Err(environment(format!("CNI_ARGS: {key} {value:?} is not a name")));
            }
            if place.replace(value).is_some() {
                return Err(environment(format!("CNI_ARGS has {key} twice")));
            }
        }
        let given = |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
        match (given(namespace), given(name)) {
            (None, None) => Ok(None),
            (Some(namespace), Some(name)) => Ok(Some(Self { namespace, name, uid: given(uid).unwrap_or_default() })),
            _ => Err(environment("CNI_ARGS has only one of K8S_POD_NAMESPACE and K8S_POD_NAME".to_owned())),
        }
    }
}

fn environment(message: String) -> Failure {
    Failure::new(Failure::ENVIRONMENT, message)
}

fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    text.len() <= MAX_NAME && text.bytes().all(is_inner) && !text.starts_with(['-', '.']) && !text.ends_with(['-', '.'])
}

/// As the specification has it: alphanumeric, then also underscores, dots and hyphens.
pub(super) fn is_container_id(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

impl Attachment {
    /// The pod for messages.
    pub(super) fn shown(&self) -> String {
        match &self.pod {
            Some(PodArguments { namespace, name, .. }) => format!("pod {namespace}/{name}"),
            None => format!("container {}", self.container),
        }
    }

    pub(super) fn netns(&self) -> &Path {
        &self.netns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Call, Failure> {
        Call::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    const ARGUMENTS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;OTHER=a=b";

    fn whole(command: &'static str) -> Vec<(&'static str, &'static str)> {
        vec![
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c0ffee"),
            ("CNI_NETNS", "/run/netns/cni-1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ARGUMENTS),
        ]
    }

    #[test]
    fn a_call_says_which_sandbox_of_which_pod() {
        let pod = PodArguments { namespace: "shop".into(), name: "web-0".into(), uid: "u-1".into() };
        let attachment = Attachment { container: "c0ffee".into(), netns: "/run/netns/cni-1".into(), pod: Some(pod) };
        assert_eq!(read(&whole("ADD")), Ok(Call::Add(attachment.clone())));
        assert_eq!(read(&whole("CHECK")), Ok(Call::Check(attachment.clone())));
        assert_eq!(read(&whole("DEL")), Ok(Call::Del(attachment)));
        for (command, call) in [("STATUS", Call::Status), ("GC", Call::Gc), ("VERSION", Call::Version)] {
            assert_eq!(read(&[("CNI_COMMAND", command)]), Ok(call));
        }
    }

    #[test]
    fn a_missing_variable_is_named_and_only_a_del_may_do_without_the_namespace() {
        for missing in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            for command in ["ADD", "CHECK", "DEL"] {
                let mut variables = whole(command);
                variables.retain(|(name, _)| *name != missing);
                match read(&variables) {
                    Err(failure) => {
                        assert_eq!(failure.code, Failure::ENVIRONMENT);
                        assert!(failure.message.contains(missing), "{failure}");
                    }
                    Ok(_) => assert_eq!((command, missing), ("DEL", "CNI_NETNS")),
                }
            }
        }
        for (name, value) in [("CNI_COMMAND", "add"), ("CNI_CONTAINERID", "../x"), ("CNI_NETNS", "netns")] {
            let mut variables = whole("ADD");
            variables.retain(|(key, _)| *key != name);
            variables.push((name, value));
            assert_eq!(read(&variables).unwrap_err().code, Failure::ENVIRONMENT, "{name}");
        }
    }

    #[test]
    fn arguments_that_name_no_pod_are_those_of_another_kind_of_container() {
        for arguments in ["", ";", "IgnoreUnknown=1", "K8S_POD_NAME=;K8S_POD_NAMESPACE="] {
            assert_eq!(PodArguments::read(arguments), Ok(None), "{arguments}");
        }
    }

    #[test]
    fn hostile_arguments_are_refused() {
        for arguments in [
            "K8S_POD_NAME",
            "K8S_POD_NAME=web",
            "K8S_POD_NAMESPACE=shop",
            "K8S_POD_NAMESPACE=../kube-system;K8S_POD_NAME=web",
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web?x",
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_NAME=other",
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=a/b",
            "K8S_POD_NAMESPACE=..;K8S_POD_NAME=web",
        ] {
            assert_eq!(PodArguments::read(arguments).unwrap_err().code, Failure::ENVIRONMENT, "{arguments}");
        }
    }
}
