{{/* The pod that reconciles once, for the CronJob and for the Job after an install. Takes the root. */}}
{{- define "cosalign.reconcilePod" -}}
{{- $root := . }}
{{- $reconcile := .Values.reconcile }}
{{- $fullname := include "cosalign.fullname" . }}
{{- if not (hasKey .Values.runConfigs $reconcile.runConfig) }}
{{- fail (printf "reconcile.runConfig: there is no %q under runConfigs; name the run config that its runs start from" $reconcile.runConfig) }}
{{- end }}
restartPolicy: Never
serviceAccountName: {{ include "cosalign.serviceAccount" (list . "reconcile") | quote }}
automountServiceAccountToken: {{ eq $reconcile.configs "kubernetes" }}
{{- include "cosalign.pullSecrets" . | nindent 0 }}
securityContext:
  {{- include "cosalign.podSecurityContext" . | nindent 2 }}
{{- with $reconcile.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $reconcile.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: reconcile
    image: {{ include "cosalign.image" (list . "retraining") | quote }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    command: [python, -m, cosalign.pipelines.command_line, reconcile]
    args:
      - --profile=/etc/cosalign/run-config/run-config.yaml
      {{- if eq $reconcile.configs "kubernetes" }}
      - --kubernetes
      {{- else }}
      - {{ printf "--configs=%s" $reconcile.configs | quote }}
      {{- end }}
      - --approvers=/etc/cosalign/approvers/approvers.yaml
      - {{ printf "--host=%s" (default (printf "http://ml-pipeline.%s:8888" .Values.kfp.namespace) $reconcile.host) | quote }}
      {{- with .Values.pipelines.namespace }}
      - {{ printf "--namespace=%s" . | quote }}
      {{- end }}
      {{- if $reconcile.tokenAudience }}
      - --token-file=/var/run/secrets/kubeflow/pipelines/token
      {{- end }}
      - {{ printf "--experiment=%s" $reconcile.experiment | quote }}
      - {{ printf "--service-account=%s" (include "cosalign.serviceAccount" (list . "pipeline")) | quote }}
      {{- with $reconcile.pipelineRoot }}
      - {{ printf "--pipeline-root=%s" . | quote }}
      {{- end }}
      - {{ printf "--settle-seconds=%v" $reconcile.settleSeconds | quote }}
      - {{ printf "--settle-limit-seconds=%v" $reconcile.settleLimitSeconds | quote }}
      - {{ printf "--attempts=%v" $reconcile.attempts | quote }}
      - {{ printf "--backoff-seconds=%v" $reconcile.backoffSeconds | quote }}
      {{- range $key, $value := $reconcile.policy }}
      - {{ printf "--policy=%s=%v" $key $value | quote }}
      {{- end }}
      {{- range $key, $value := $reconcile.increment }}
      - {{ printf "--increment=%s=%v" $key $value | quote }}
      {{- end }}
      {{- range $path := include "cosalign.pipelinePaths" . | fromJsonArray }}
      {{- $pipeline := include "cosalign.pipeline" (list $root $path) | fromJson }}
      {{- if ne $root.Values.pipelines.store "none" }}
      - {{ printf "--version=%s=%s" $pipeline.name $pipeline.version | quote }}
      {{- end }}
      {{- end }}
      {{- if eq .Values.pipelines.store "none" }}
      {{- /* The version that ships is uploaded; what this cluster's versions would hold goes with each run. */}}
      {{- range $component := list "synthesis" "scoring" "pairing" "training" "evaluation" }}
      - {{ printf "--parameter=%s_image=%s" $component (include "cosalign.image" (list $root $component)) | quote }}
      {{- end }}
      {{- range $name, $value := .Values.pipelines.parameters }}
      - {{ printf "--parameter=%s=%s" $name (ternary $value (toJson $value) (kindIs "string" $value)) | quote }}
      {{- end }}
      {{- end }}
      {{- with $reconcile.webhook.url }}
      - {{ printf "--webhook=%s" . | quote }}
      {{- end }}
      {{- with $reconcile.pushgateway }}
      - {{ printf "--pushgateway=%s" . | quote }}
      {{- end }}
    env:
      - {name: HOME, value: /tmp}
      {{- if $reconcile.webhook.url }}
      - name: COSALIGN_WEBHOOK_SECRET
        valueFrom:
          secretKeyRef:
            name: {{ required "reconcile.webhook.secretName: name the secret that holds the webhook's secret" $reconcile.webhook.secretName | quote }}
            key: {{ $reconcile.webhook.secretKey | quote }}
      {{- end }}
      {{- include "cosalign.environment" . | nindent 6 }}
    resources:
      {{- toYaml $reconcile.resources | nindent 6 }}
    securityContext:
      {{- include "cosalign.containerSecurityContext" . | nindent 6 }}
    volumeMounts:
      - {name: scratch, mountPath: /tmp}
      - {name: run-config, mountPath: /etc/cosalign/run-config, readOnly: true}
      - {name: approvers, mountPath: /etc/cosalign/approvers, readOnly: true}
      {{- if $reconcile.tokenAudience }}
      - {name: token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
      {{- end }}
volumes:
  - name: scratch
    emptyDir: {sizeLimit: 1Gi}
  - name: run-config
    configMap:
      name: {{ $fullname }}-run-{{ $reconcile.runConfig }}
  - name: approvers
    configMap:
      name: {{ default (printf "%s-approvers" $fullname) $reconcile.approversConfigMap | quote }}
  {{- with $reconcile.tokenAudience }}
  - name: token
    projected:
      sources:
        - serviceAccountToken: {path: token, audience: {{ . | quote }}, expirationSeconds: 3600}
  {{- end }}
{{- end }}
