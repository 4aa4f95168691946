{{- define "slosgate.labels" -}}
app.kubernetes.io/name: slosgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "slosgate.redis" -}}
- name: SLOSGATE_REDIS
{{- if .Values.redis.secret }}
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.secret }}, key: url}}
{{- else }}
  value: {{ .Values.redis.url | default (printf "redis://%s-valkey:6379/0" .Release.Name) | quote }}
{{- end }}
{{- end }}

{{- define "slosgate.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "slosgate.pod" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}
