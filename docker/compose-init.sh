#!/bin/sh
# Makes, at the first start of compose.yaml, what its services know about each other: run as root in the image of
# the demo server, which has openssl and ssh-keygen. Each folder is a volume of its own, so that nobody sees more
# than their part:
#
#   /control-plane   certificate and key, the first tokens, the authority's certificate for those who call
#   /connector       its token, the control plane's authority, and in secrets/ the key it logs in with
#   /demo-server     who may log in: the public half of that key
set -eu
umask 077

if [ -e /control-plane/complete ]; then
  echo 'made before, left as it is'
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# An authority for this one certificate: its key ends with this script.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 365 \
  -subj '/CN=demo authority' -addext 'keyUsage=critical,keyCertSign' \
  -keyout "$work/ca.key" -out "$work/ca.crt" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj '/CN=control-plane' \
  -keyout /control-plane/tls.key -out "$work/tls.csr" 2>/dev/null
cat >"$work/extensions" <<'EXTENSIONS'
subjectAltName=DNS:control-plane,DNS:localhost,IP:127.0.0.1
basicConstraints=critical,CA:FALSE
extendedKeyUsage=serverAuth
EXTENSIONS
openssl x509 -req -in "$work/tls.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -sha256 -days 365 \
  -extfile "$work/extensions" -out /control-plane/tls.crt 2>/dev/null
cp "$work/ca.crt" /control-plane/ca.crt
cp "$work/ca.crt" /connector/ca.crt

openssl rand -hex 32 >/control-plane/admin-token
openssl rand -hex 32 >/control-plane/connector-token
cp /control-plane/connector-token /connector/token

ssh-keygen -q -t ed25519 -N '' -C 'apono connector' -f "$work/key"
mkdir -p /connector/secrets
printf '{"base64_private_key":"%s"}\n' "$(base64 -w 0 "$work/key")" >/connector/secrets/ssh.json
cp "$work/key.pub" /demo-server/connector.pub

# The user that the image runs as.
chown -R 1000:1000 /control-plane /connector
: >/control-plane/complete
echo 'made certificate, tokens and keys'
