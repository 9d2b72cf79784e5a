{{- define "vaultbrix.name" -}}
{{- if contains "vaultbrix" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-vaultbrix" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Where Jobs and the Secrets of the operator's own making are. */}}
{{- define "vaultbrix.jobsNamespace" -}}
{{- $namespace := .Values.jobs.namespace | default (printf "%s-jobs" .Release.Namespace) }}
{{- if eq $namespace .Release.Namespace }}
{{- fail "jobs.namespace is the release's own, whose Secrets the operator must not have: name another, or leave it empty" }}
{{- end }}
{{- if gt (len $namespace) 63 }}
{{- fail (printf "jobs.namespace would be %s, which is too long: name a shorter one" $namespace) }}
{{- end }}
{{- $namespace }}
{{- end }}

{{/* Secrets of the release's namespace that the operator reads, as [name]. */}}
{{- define "vaultbrix.operatorSecrets" -}}
{{- $name := include "vaultbrix.name" . }}
{{- $names := list }}
{{- if .Values.postgresql.enabled }}
{{- $own := .Values.postgresql.tls.caSecretName | default (include "vaultbrix.serverCertificate" .) }}
{{- $names = list (print $name "-postgresql-admin") $own (print $name "-audit-reader") (print $name "-audit-manager") }}
{{- end }}
{{- range .Values.rbac.serverSecrets }}
{{- if or (has . (list (print $name "-ca") (print $name "-audit-owner") (print $name "-audit-tls"))) (hasPrefix (print $name "-audit-shipper") .) }}
{{- fail (printf "rbac.serverSecrets: the operator must not read %s; make a Secret for it that holds what it needs" .) }}
{{- end }}
{{- $names = append $names . }}
{{- end }}
{{- $names | uniq | toJson }}
{{- end }}

{{/* Secrets of servers' data APIs, as [name]. */}}
{{- define "vaultbrix.dataAPISecrets" -}}
{{- $own := ternary (list .Values.postgresql.serverName) list .Values.postgresql.enabled }}
{{- $names := list }}
{{- range concat $own .Values.dataAPI.servers | uniq }}{{ $names = append $names (print . "-data-api") }}{{ end }}
{{- $names | toJson }}
{{- end }}

{{- define "vaultbrix.labels" -}}
app.kubernetes.io/name: vaultbrix
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "vaultbrix.selector" -}}
app.kubernetes.io/name: vaultbrix
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "vaultbrix.image" -}}
{{ include "vaultbrix.reference" (dict "root" . "image" .Values.image) }}
{{- end }}

{{- define "vaultbrix.postgresqlImage" -}}
{{ include "vaultbrix.reference" (dict "root" . "image" .Values.postgresqlImage) }}
{{- end }}

{{- define "vaultbrix.dataAPIImage" -}}
{{ include "vaultbrix.reference" (dict "root" . "image" .Values.dataAPI.image) }}
{{- end }}

{{/* The digest alone where there is one: a tag beside it would only look as if it counted. */}}
{{- define "vaultbrix.reference" -}}
{{- with .image.digest }}{{ $.image.repository }}@{{ . }}{{ else }}{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* What clients call PostgreSQL: DNS names and addresses, as {names: []}. */}}
{{- define "vaultbrix.serverNames" -}}
{{- $service := printf "%s-postgresql" (include "vaultbrix.name" .) }}
{{- $pg := .Values.postgresql }}
{{- $names := list (printf "%s.%s.svc" $service .Release.Namespace) $service $pg.publicEndpoint.host }}
{{- dict "names" (concat $names $pg.service.externalIPs $pg.tls.names | compact | uniq) | toJson }}
{{- end }}

{{/* The Secret with the certificate of PostgreSQL. */}}
{{- define "vaultbrix.serverCertificate" -}}
{{ include "vaultbrix.name" . }}-postgresql-{{ if .Values.postgresql.tls.certManager.issuerRef }}certificate{{ else }}tls{{ end }}
{{- end }}

{{/* Non-root, nothing added, nothing writable: all containers but the agent. */}}
{{- define "vaultbrix.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The admission policies, as [{name, sha256}]: what operator and agents compare those in force with. */}}
{{- define "vaultbrix.policies" -}}
{{- $policies := list }}
{{- range splitList "\n---\n" (include (print $.Template.BasePath "/admission.yaml") .) }}
{{- $object := fromYaml . }}
{{- if eq (dig "kind" "" $object) "ValidatingAdmissionPolicy" }}
{{- $policies = append $policies (dict "name" $object.metadata.name "sha256" ($object.spec | toJson | sha256sum)) }}
{{- end }}
{{- end }}
{{- toJson $policies }}
{{- end }}

{{/* Who goes by decisions, as subjects of a binding: operator and agent. */}}
{{- define "vaultbrix.deciders" -}}
- {kind: ServiceAccount, name: {{ include "vaultbrix.name" . }}-operator, namespace: {{ .Release.Namespace }}}
{{- if .Values.postgresql.enabled }}
- {kind: ServiceAccount, name: {{ include "vaultbrix.name" . }}-agent, namespace: {{ .Release.Namespace }}}
{{- end }}
{{- end }}

{{/* Part of the shell script before PostgreSQL starts: no server reads the files of another major version. */}}
{{- define "vaultbrix.same-major" -}}
holds=$(cat /data/pgdata/PG_VERSION)
runs=$(postgres --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
if [ "$holds" != "$runs" ]; then
  echo "error: the data is of PostgreSQL $holds and this image runs $runs; name an image with $holds, then move the data" >&2
  exit 1
fi
{{- end }}
