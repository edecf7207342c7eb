{{- /* An image: the tag is the chart's version if there is none. Takes the root and the value. */ -}}
{{- define "image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}

{{- /* Not empty when Secrets are to be read: by default in listed namespaces. Unquoted, YAML takes `on` and `off` for booleans. */ -}}
{{- define "secrets" -}}
{{- $wanted := hasKey .Values.settings "validate-secrets" | ternary (toString (get .Values.settings "validate-secrets")) "auto" -}}
{{- if or (has $wanted (list "on" "true")) (and (eq $wanted "auto") .Values.namespaces) -}}true{{- end -}}
{{- end -}}

{{- /* What the ConfigMap says. */ -}}
{{- define "settings" -}}
{{- $sidecar := include "image" (list . .Values.sidecarImage) -}}
{{- $images := dict "no-store" $sidecar "in-memory" $sidecar "postgres" $sidecar "cassandra" $sidecar -}}
{{- $settings := dict "proxy" (dict "image" $images) -}}
{{- if .Values.namespaces -}}
{{- $_ := set $settings "watch" (dict "namespaces" .Values.namespaces) -}}
{{- end -}}
{{ toYaml (mergeOverwrite $settings (deepCopy .Values.settings)) }}
{{- end -}}
