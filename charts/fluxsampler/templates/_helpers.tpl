{{- define "fluxsampler.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "fluxsampler.fullname" -}}
{{- $name := include "fluxsampler.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of what exists once in a cluster; fixed, so that Helm refuses a second operator for all namespaces. */}}
{{- define "fluxsampler.clusterName" -}}
fluxsampler-operator
{{- end -}}

{{- define "fluxsampler.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fluxsampler.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.create is false: name an existing ServiceAccount in serviceAccount.name" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "fluxsampler.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fluxsampler.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "fluxsampler.labels" -}}
{{ include "fluxsampler.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image's full name. Call with (dict "root" $ "image" <image values>). */}}
{{- define "fluxsampler.image" -}}
{{- $name := .image.repository -}}
{{- with .root.Values.imageRegistry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "fluxsampler.probeSecret" -}}
{{- default (printf "%s-probe" (include "fluxsampler.fullname" .)) .Values.probe.existingSecret -}}
{{- end -}}

{{/* Names of a list of {name: …}, joined by commas. */}}
{{- define "fluxsampler.names" -}}
{{- $names := list -}}
{{- range . -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- join "," $names -}}
{{- end -}}

{{/* "true" where there are several operators, of which a Lease lets one work. */}}
{{- define "fluxsampler.elects" -}}
{{- gt (int .Values.replicas) 1 -}}
{{- end -}}

{{/*
"true" where pods of the old and the new form may run side by side: all of them elect. Whoever runs in the cluster
now without a Lease has to be gone first; a template that is rendered without a cluster cannot know it.
*/}}
{{- define "fluxsampler.rolls" -}}
{{- $rolls := eq (include "fluxsampler.elects" .) "true" -}}
{{- with lookup "apps/v1" "Deployment" .Release.Namespace (include "fluxsampler.fullname" .) -}}
{{- $elect := false -}}
{{- range .spec.template.spec.containers -}}
{{- range .env -}}
{{- if eq .name "FLUXSAMPLER_OPERATOR_LEASE" -}}
{{- $elect = true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $rolls = and $rolls $elect -}}
{{- end -}}
{{- $rolls -}}
{{- end -}}

{{/* "true" where the operator may list nodes. */}}
{{- define "fluxsampler.readNodes" -}}
{{- if eq .Values.rbac.nodes "Auto" -}}
{{- empty .Values.watchNamespaces -}}
{{- else -}}
{{- eq .Values.rbac.nodes "Enabled" -}}
{{- end -}}
{{- end -}}
