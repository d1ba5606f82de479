#!/bin/sh
# Makes the certificates of this directory anew, valid from 2020 to 2119 whatever the clock of this machine says.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/ca.cnf" <<'CNF'
[ca]
default_ca = here
[here]
dir = .
database = $dir/index.txt
new_certs_dir = $dir
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[host]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:127.0.0.2, IP:::1
CNF
here=$(pwd)
cd "$work"
: > index.txt
key() { openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -subj "/CN=$2" -out "$1.csr"; }
sign() { openssl ca -batch -notext -config ca.cnf -startdate 20200101000000Z -enddate 21190101000000Z "$@"; }
key ca "xenvol tests"
key other "xenvol tests, another authority"
key host "localhost"
sign -selfsign -keyfile ca.key -in ca.csr -extensions authority -out ca.pem
sign -selfsign -keyfile other.key -in other.csr -extensions authority -out other-ca.pem
sign -cert ca.pem -keyfile ca.key -in host.csr -extensions host -out host.crt
cat host.key host.crt > host.pem
cp ca.pem other-ca.pem host.pem "$here"
