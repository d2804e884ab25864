{{/* Paths of the compiled pipelines, as JSON; fails where values name a parameter that none takes. */}}
{{- define "cosalign.pipelinePaths" -}}
{{- $paths := list }}
{{- $known := dict }}
{{- range $path, $content := .Files.Glob "files/pipelines/*.json" }}
{{- if not (hasSuffix "-platform.json" $path) }}
{{- $paths = append $paths $path }}
{{- $known = merge $known (dig "root" "inputDefinitions" "parameters" dict (toString $content | fromJson)) }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.pipelines.parameters }}
{{- if not (hasKey $known $name) }}
{{- fail (printf "pipelines.parameters.%s: no pipeline takes it; there are %s" $name (keys $known | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}
{{- toJson $paths }}
{{- end }}

{{/* Not empty where pipelines lie in another namespace than the release. */}}
{{- define "cosalign.pipelinesElsewhere" -}}
{{- if not (has .Values.pipelines.namespace (list "" .Release.Namespace)) }}true{{ end }}
{{- end }}

{{/*
A compiled pipeline as it is deployed, as JSON: {name, version, description, pipelineSpec, platformSpec}.
Takes a list: the root, and the file's path. Images are written in by digest before the name is
made, so that one name never means two contents: KFP holds a version's spec immutable.
*/}}
{{- define "cosalign.pipeline" -}}
{{- $root := index . 0 }}
{{- $path := index . 1 }}
{{- $file := $root.Files.Get $path | fromJson }}
{{- with $file.Error }}
{{- fail (printf "%s: not JSON: %s" $path .) }}
{{- end }}
{{- $spec := $file }}
{{- range $label, $executor := $spec.deploymentSpec.executors }}
{{- if hasKey $executor "container" }}
{{- $image := $executor.container.image }}
{{- if regexMatch "^cosalign-[a-z]+(:|$)" $image }}
{{- $component := regexFind "^cosalign-[a-z]+" $image | trimPrefix "cosalign-" }}
{{- $_ := set $executor.container "image" (include "cosalign.image" (list $root $component)) }}
{{- else if not (hasPrefix "{{" $image) }}
{{- fail (printf "%s: %s runs the image %q, which is none of cosalign's" $path $label $image) }}
{{- end }}
{{- end }}
{{- end }}
{{- /* Images that are parameters of a run: what the chart was given becomes their default. */}}
{{- range $name, $parameter := dig "inputDefinitions" "parameters" dict $spec.root }}
{{- if regexMatch "^[a-z]+_image$" $name }}
{{- $_ := set $parameter "defaultValue" (include "cosalign.image" (list $root (trimSuffix "_image" $name))) }}
{{- end }}
{{- end }}
{{- /* Training runs on the nodes of the other GPU tasks unless values say otherwise; a pipeline's default is a constant. */}}
{{- $given := deepCopy $root.Values.pipelines.parameters }}
{{- if and (hasKey $given "node_selector") (not (hasKey $given "training_node_selector")) }}
{{- $_ := set $given "training_node_selector" $given.node_selector }}
{{- end }}
{{- range $name, $default := $given }}
{{- with dig "inputDefinitions" "parameters" $name dict $spec.root }}
{{- $_ := set . "defaultValue" $default }}
{{- end }}
{{- end }}
{{- $name := $spec.pipelineInfo.name }}
{{- $deployed := dict "name" $name "description" (default "" $spec.pipelineInfo.description) "pipelineSpec" $spec }}
{{- with $root.Files.Get (printf "%s-platform.json" (trimSuffix ".json" $path)) }}
{{- $_ := set $deployed "platformSpec" (fromJson .) }}
{{- end }}
{{- $content := toJson $deployed | sha256sum | trunc 12 }}
{{- $_ := set $deployed "version" (printf "%s-%s-%s" $name ($root.Chart.Version | replace "+" "-" | lower) $content) }}
{{- toJson $deployed }}
{{- end }}

{{/* The spec of a PipelineVersion, as JSON. Takes what "cosalign.pipeline" gives, read. */}}
{{- define "cosalign.pipelineVersionSpec" -}}
{{- $spec := dict "displayName" .version "pipelineName" .name "pipelineSpec" .pipelineSpec }}
{{- with .platformSpec }}
{{- $_ := set $spec "platformSpec" . }}
{{- end }}
{{- toJson $spec }}
{{- end }}
