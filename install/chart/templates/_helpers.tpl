{{- define "headgate.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "headgate.labels" -}}
app.kubernetes.io/name: headgate
app.kubernetes.io/part-of: headgate
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
headgate.dev/part: {{ .part }}
{{- end }}

{{- define "headgate.selector" -}}
app.kubernetes.io/name: headgate
headgate.dev/part: {{ .part }}
{{- end }}

{{- define "headgate.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "headgate.control-url" -}}
http://headgate-controller.{{ .Release.Namespace }}:7070
{{- end }}

{{- define "headgate.router-url" -}}
{{- if .Values.router.url -}}
{{ .Values.router.url }}
{{- else -}}
{{- $usual := eq (include "headgate.router-port" .) (ternary "443" "80" (ne .Values.router.tls.secretName "")) -}}
{{ include "headgate.router-scheme" . | lower }}://headgate-router.{{ .Release.Namespace }}{{ if not $usual }}:{{ include "headgate.router-port" . }}{{ end }}
{{- end -}}
{{- end }}

{{- define "headgate.router-scheme" -}}
{{ if .Values.router.tls.secretName }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- define "headgate.router-port" -}}
{{ .Values.router.service.port | default (ternary 443 80 (ne .Values.router.tls.secretName "")) | int }}
{{- end }}
