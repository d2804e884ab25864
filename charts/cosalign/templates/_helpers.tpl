{{/* Names. Object names end in at most 20 letters of their own, so the prefix keeps to 43. */}}
{{- define "cosalign.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 43 | trimSuffix "-" }}
{{- end }}

{{- define "cosalign.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 43 | trimSuffix "-" }}
{{- else }}
{{- $name := include "cosalign.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 43 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 43 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What identifies this release's pods; never changes between versions. */}}
{{- define "cosalign.selectorLabels" -}}
app.kubernetes.io/name: {{ include "cosalign.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "cosalign.labels" -}}
{{ include "cosalign.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: cosalign
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The name of an account. Takes a list: the root, and the account's key. */}}
{{- define "cosalign.serviceAccount" -}}
{{- $root := index . 0 }}
{{- $key := index . 1 }}
{{- $account := index $root.Values.serviceAccounts $key }}
{{- $own := printf "%s-%s" (include "cosalign.fullname" $root) $key }}
{{- default (ternary $own "default" $account.create) $account.name }}
{{- end }}

{{/* A component's full image reference. Takes a list: the root, and the component. */}}
{{- define "cosalign.image" -}}
{{- $root := index . 0 }}
{{- $component := index . 1 }}
{{- $images := $root.Values.images }}
{{- if not (hasKey $images $component) }}
{{- fail (printf "a pipeline names the image cosalign-%s, which values.images does not know" $component) }}
{{- end }}
{{- $image := index $images $component }}
{{- if not $images.registry }}
{{- fail "images.registry is required: where the images are, europe-docker.pkg.dev/PROJECT/cosalign for instance" }}
{{- end }}
{{- if $image.digest -}}
{{ $images.registry }}/{{ $image.repository }}@{{ $image.digest }}
{{- else if $images.allowTags -}}
{{ $images.registry }}/{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- else }}
{{- fail (printf "images.%s.digest is required: sha256:... as the registry shows it; or images.allowTags=true to try tags out" $component) }}
{{- end }}
{{- end }}

{{/* Security of a pod and of a container, for Pod Security "restricted". */}}
{{- define "cosalign.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .Values.pods.runAsUser }}
runAsGroup: {{ .Values.pods.runAsUser }}
fsGroup: {{ .Values.pods.runAsUser }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "cosalign.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "cosalign.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Environment that every pod of the release gets: a list of entries. */}}
{{- define "cosalign.environment" -}}
{{- range $name, $value := .Values.pods.environment }}
- {name: {{ $name | quote }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
