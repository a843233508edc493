package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// A test cluster that outlives this has been forgotten.
const validity = 30 * 24 * time.Hour

// certificates writes the cluster's authority (ca.crt, ca.key), the API server's certificate for the names and addresses
// that it is told (apiserver.crt, apiserver.key), and the key that signs service accounts' tokens (service-accounts.key).
func certificates(arguments []string) int {
	if len(arguments) < 3 {
		fmt.Fprintln(os.Stderr, "usage: kubernetes certificates FOLDER NAME-OR-ADDRESS…")
		return 2
	}
	if err := writeCertificates(arguments[1], arguments[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "certificates:", err)
		return 1
	}
	return 0
}

func writeCertificates(folder string, names []string) error {
	authorityKey, err := newKey(filepath.Join(folder, "ca.key"))
	if err != nil {
		return err
	}
	authority := template("kubernetes")
	authority.IsCA = true
	authority.BasicConstraintsValid = true
	authority.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	if err := sign(filepath.Join(folder, "ca.crt"), authority, authority, authorityKey.Public(), authorityKey); err != nil {
		return err
	}

	serverKey, err := newKey(filepath.Join(folder, "apiserver.key"))
	if err != nil {
		return err
	}
	server := template("kube-apiserver")
	server.KeyUsage = x509.KeyUsageDigitalSignature
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		if address := net.ParseIP(name); address != nil {
			server.IPAddresses = append(server.IPAddresses, address)
		} else {
			server.DNSNames = append(server.DNSNames, name)
		}
	}
	if err := sign(filepath.Join(folder, "apiserver.crt"), server, authority, serverKey.Public(), authorityKey); err != nil {
		return err
	}

	_, err = newKey(filepath.Join(folder, "service-accounts.key"))
	return err
}

func template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // The system's source of randomness does not fail.
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		// Clocks of nodes may be behind.
		NotBefore: time.Now().Add(-time.Hour),
		NotAfter:  time.Now().Add(validity),
	}
}

func newKey(file string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, write(file, "EC PRIVATE KEY", der, 0o600)
}

func sign(file string, certificate, authority *x509.Certificate, key crypto.PublicKey, by crypto.Signer) error {
	der, err := x509.CreateCertificate(rand.Reader, certificate, authority, key, by)
	if err != nil {
		return err
	}
	return write(file, "CERTIFICATE", der, 0o644)
}

func write(file, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
