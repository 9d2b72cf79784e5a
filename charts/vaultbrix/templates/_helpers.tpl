{{- define "vaultbrix.name" -}}
{{- if contains "vaultbrix" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-vaultbrix" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
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
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "vaultbrix.postgresqlImage" -}}
{{ .Values.postgresqlImage.repository }}:{{ .Values.postgresqlImage.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "vaultbrix.dataAPIImage" -}}
{{ .Values.dataAPI.image.repository }}:{{ .Values.dataAPI.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Non-root, nothing added, nothing writable: all containers but the agent. */}}
{{- define "vaultbrix.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}
