{{/* Serving. Names: RELEASE-gateway, RELEASE-model, RELEASE-rollout. */}}
{{- define "cosalign.serving.account" -}}
{{- $root := index . 0 }}
{{- $key := index . 1 }}
{{- $account := index $root.Values.serving $key "serviceAccount" }}
{{- $own := printf "%s-%s" (include "cosalign.fullname" $root) $key }}
{{- default (ternary $own "default" $account.create) $account.name }}
{{- end }}

{{/* The gateway's settings (docs/serving.md). */}}
{{- define "cosalign.serving.settings" -}}
{{- $serving := .Values.serving }}
{{- $storage := required "storage.root is required with serving.enabled: where models, configs and audit rows are" .Values.storage.root }}
{{- $upstreams := dict "every_address" true "urls" (list (printf "http://%s-model:8000" (include "cosalign.fullname" .))) }}
{{- if and (not $serving.model.enabled) (not $serving.gateway.upstreams) }}
{{- fail "serving.gateway.upstreams is required where serving.model.enabled is false" }}
{{- end }}
{{- if $serving.gateway.upstreams }}
{{- $upstreams = dict "every_address" false "urls" $serving.gateway.upstreams }}
{{- end }}
{{- $listen := dict "host" "0.0.0.0" "port" 8080 "admin_port" 9090 "drain_seconds" (int $serving.gateway.drainSeconds) }}
{{- $settings := dict
  "model_name" $serving.modelName
  "storage" $storage
  "tenants" "/etc/cosalign/tenants/tenants.yaml"
  "pepper_file" "/etc/cosalign/tenants/pepper"
  "cache" "/scratch"
  "listen" $listen
  "configs" (dict "kind" $serving.configs "name" $serving.pointer "taxonomies" $serving.taxonomies)
  "model" (dict "pointer" $serving.pointer)
  "upstreams" $upstreams
  "audit" (dict "required" $serving.auditRequired) }}
{{- toJson $settings }}
{{- end }}

{{/* What a pod needs that talks to the Kubernetes API: an account's token, mounted without the default mount. */}}
{{- define "cosalign.serving.tokenVolume" -}}
- name: kubernetes
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}

{{- define "cosalign.serving.tokenMount" -}}
- {name: kubernetes, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{/* Metadata of a serving object. Takes a list: the root, the component, and the name's ending. */}}
{{- define "cosalign.serving.metadata" -}}
{{- $root := index . 0 }}
{{- $component := index . 1 }}
name: {{ include "cosalign.fullname" $root }}-{{ index . 2 }}
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- include "cosalign.labels" $root | nindent 2 }}
  app.kubernetes.io/component: {{ $component }}
{{- end }}

{{/* Labels by which a component's pods are found. Takes a list: the root, and the component. */}}
{{- define "cosalign.serving.selector" -}}
{{ include "cosalign.selectorLabels" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Where a component's pods go. Takes the component's values. */}}
{{- define "cosalign.serving.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
