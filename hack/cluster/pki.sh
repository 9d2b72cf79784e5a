# shellcheck shell=bash
# Certificates and kubeconfigs. They live as long as the cluster.

CERTIFICATE_DAYS=3650

certificate() { # directory name subject alternative-names
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$3" -keyout "$1/$2.key" -out "$1/$2.csr" 2>/dev/null
  openssl x509 -req -in "$1/$2.csr" -CA "$1/ca.crt" -CAkey "$1/ca.key" -CAcreateserial -days "$CERTIFICATE_DAYS" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$4") -out "$1/$2.crt" 2>/dev/null
  rm "$1/$2.csr"
}

create_pki() {
  local new=$ROOT/pki.new
  [[ ! -d $ROOT/pki ]] || return 0
  rm -rf "$new"
  mkdir -m 0700 "$new"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$CERTIFICATE_DAYS" -subj /CN=vaultbrix-dev-ca \
    -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature -keyout "$new/ca.key" -out "$new/ca.crt" 2>/dev/null
  openssl ecparam -genkey -noout -name prime256v1 -out "$new/service-account.key"
  certificate "$new" apiserver /CN=kube-apiserver \
    "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$API_SERVICE_IP,IP:$NODE_IP"
  certificate "$new" apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client DNS:apiserver
  certificate "$new" front-proxy /CN=front-proxy DNS:front-proxy
  certificate "$new" admin /O=system:masters/CN=admin DNS:admin
  certificate "$new" kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:127.0.0.1,IP:$NODE_IP"
  certificate "$new" kube-controller-manager /CN=system:kube-controller-manager DNS:kube-controller-manager
  certificate "$new" kube-scheduler /CN=system:kube-scheduler DNS:kube-scheduler
  certificate "$new" kube-proxy /CN=system:kube-proxy DNS:kube-proxy
  certificate "$new" coredns /CN=vaultbrix:coredns DNS:coredns
  mv "$new" "$ROOT/pki"
}

kubeconfig() { # user file
  local pki=$ROOT/pki
  (
    umask 077
    write "$2" <<EOF
apiVersion: v1
kind: Config
clusters:
- name: vaultbrix
  cluster:
    server: https://$NODE_IP:6443
    certificate-authority-data: $(base64 -w0 "$pki/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "$pki/$1.crt")
    client-key-data: $(base64 -w0 "$pki/$1.key")
contexts:
- name: vaultbrix
  context: {cluster: vaultbrix, user: $1}
current-context: vaultbrix
EOF
  )
}

create_kubeconfigs() {
  local user
  for user in kubelet kube-controller-manager kube-scheduler kube-proxy coredns; do
    kubeconfig "$user" "$ROOT/config/$user.kubeconfig"
  done
  kubeconfig admin "$ROOT/admin.kubeconfig"
}
