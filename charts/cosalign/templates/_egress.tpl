{{/* Egress rules by need; each is a list of rules. */}}
{{- define "cosalign.egress.dns" -}}
- to:
    - namespaceSelector:
        matchLabels:
          {{- toYaml .Values.networkPolicy.dns.namespaceLabels | nindent 10 }}
      podSelector:
        matchLabels:
          {{- toYaml .Values.networkPolicy.dns.podLabels | nindent 10 }}
    {{- range .Values.networkPolicy.dns.cidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{- define "cosalign.egress.kfp" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.kfp.namespace | quote }}
  ports:
    {{- range .Values.networkPolicy.kfp.ports }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end }}

{{/* Exceptions of an address block's own family, as JSON: the API server refuses others. Takes a list: the root, and the block. */}}
{{- define "cosalign.egress.except" -}}
{{- $ipv6 := contains ":" (index . 1) }}
{{- $found := list }}
{{- range (index . 0).Values.networkPolicy.https.except }}
{{- if eq $ipv6 (contains ":" .) }}
{{- $found = append $found . }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* Google's APIs and other HTTPS; and, on GKE, where pods get their credentials. */}}
{{- define "cosalign.egress.https" -}}
- to:
    {{- range .Values.networkPolicy.https.cidrs }}
    - ipBlock:
        cidr: {{ . | quote }}
        {{- if hasSuffix "/0" . }}
        except: {{ include "cosalign.egress.except" (list $ .) }}
        {{- end }}
    {{- end }}
  ports:
    - {protocol: TCP, port: 443}
{{- if .Values.networkPolicy.metadataServer.enabled }}
- to:
    - ipBlock: {cidr: 169.254.169.252/32}
  ports:
    - {protocol: TCP, port: 988}
- to:
    - ipBlock: {cidr: 169.254.169.254/32}
  ports:
    - {protocol: TCP, port: 80}
{{- end }}
{{- end }}

{{- define "cosalign.egress.kubernetes" -}}
- to:
    {{- range .Values.networkPolicy.kubernetesApi.cidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    {{- range .Values.networkPolicy.kubernetesApi.ports }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end }}
