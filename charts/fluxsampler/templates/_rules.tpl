{{/*
What the operator may do in each namespace that it watches. A test runs it with exactly these rules
and finds every verb used. No Secrets: the Ray pods read theirs by reference.
*/}}
{{- define "fluxsampler.rules" -}}
- apiGroups: [fluxsampler.io]
  resources: [fluxsamplers]
  verbs: [get, list, watch]
- apiGroups: [fluxsampler.io]
  resources: [fluxsamplers/status]
  verbs: [patch]
- apiGroups: [ray.io]
  resources: [rayservices]
  verbs: [get, list, watch, create, patch]
# KubeRay makes RayClusters; a roll-out without spare GPUs removes the old one first.
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [list, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end -}}
