"""Where Python packages come from on this machine: pip's own configuration, read without pip.

One reading serves three users: uv (which ignores pip's configuration), `pip` during an image build, and `pip` inside
the fetch worker. Covered: index-url, extra-index-url, find-links, trusted-host, cert and proxies, from configuration
files and `PIP_*` variables. Not covered: keyrings and client certificates.
"""

import configparser
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy")
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
HUB_VARIABLES = ("HF_ENDPOINT", *HUB_TOKENS)
MACHINE_FILE = Path("/etc/pip.conf")
_SECTIONS = ("global", "install", "download")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class PackageSources:
    """`extra_indexes` and `find_links` may be addresses or `file:` locations; `certificate` is a CA bundle."""

    index: str | None = None
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    certificate: Path | None = None
    proxies: tuple[tuple[str, str], ...] = ()

    @classmethod
    def configured(cls, environment: Mapping[str, str] | None = None) -> "PackageSources":
        """What pip itself would use for this user, environment variables winning over files."""
        variables = os.environ if environment is None else environment
        options = _read_options(variables)
        return cls(
            index=options.get("index-url"),
            extra_indexes=tuple(options.get("extra-index-url", "").split()),
            find_links=tuple(options.get("find-links", "").split()),
            trusted_hosts=tuple(options.get("trusted-host", "").split()),
            certificate=_certificate(options, variables),
            proxies=tuple((name, variables[name]) for name in PROXY_VARIABLES if variables.get(name)),
        )

    @property
    def wheel_folders(self) -> tuple[Path, ...]:
        """The find-links that are folders of this machine."""
        found = (local_path(location) for location in self.find_links)
        return tuple(path for path in found if path is not None and path.is_dir())

    @property
    def remote_indexes(self) -> tuple[str, ...]:
        """The extra indexes that another machine, or a container, can reach too."""
        return tuple(index for index in self.extra_indexes if local_path(index) is None)

    @property
    def elsewhere(self) -> "PackageSources":
        """What a container has of these: addresses, and the folders of wheels, which are handed to it."""
        index = self.index if self.index and local_path(self.index) is None else None
        return replace(self, index=index, extra_indexes=self.remote_indexes)

    @property
    def remote_links(self) -> tuple[str, ...]:
        """The find-links that are addresses."""
        return tuple(location for location in self.find_links if local_path(location) is None)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of all indexes, pages of links and proxies; there may be names and passwords in them."""
        return (self.index or "", *self.extra_indexes, *self.remote_links, *(value for _, value in self.proxies))

    @property
    def uses_loopback(self) -> bool:
        """True when an index or a proxy listens on this machine only, out of reach of a container's own network."""
        return any(urlsplit(address).hostname in _LOOPBACK for address in self.addresses)

    def uv_arguments(self) -> tuple[str, ...]:
        """Options for `uv pip`. Hashes decide what is accepted, so all indexes are searched alike."""
        arguments = ["--no-config"]
        if self.index:
            arguments += ["--default-index", self.index]
        for index in self.extra_indexes:
            path = local_path(index)
            if path is None or path.is_dir():
                arguments += ["--extra-index-url", index if path is None else path.as_uri()]
        if self.extra_indexes:
            arguments += ["--index-strategy", "unsafe-best-match"]
        for place in (*map(str, self.wheel_folders), *self.remote_links):
            arguments += ["--find-links", place]
        for host in self.trusted_hosts:
            arguments += ["--allow-insecure-host", host]
        return tuple(arguments)

    def uv_environment(self) -> dict[str, str]:
        """Variables for `uv`: the caller's own, and pip's CA bundle where no other is named."""
        variables = dict(os.environ)
        if self.certificate is not None:
            variables.setdefault("SSL_CERT_FILE", str(self.certificate))
        return variables

    def pip_configuration(self, *, certificate: str | None) -> str:
        """A pip.conf that says the same elsewhere: remote places only, the CA bundle at `certificate`."""
        options = {
            "index-url": self.index if self.index and local_path(self.index) is None else None,
            "extra-index-url": " ".join(self.remote_indexes),
            "find-links": " ".join(self.remote_links),
            "trusted-host": " ".join(self.trusted_hosts),
            "cert": certificate if self.certificate is not None else None,
            "disable-pip-version-check": "true",
        }
        lines = [f"{name} = {value}" for name, value in options.items() if value]
        return "\n".join(["[global]", *lines, ""])

    def pip_environment(self, *, certificate: str | None, shares_files: bool) -> dict[str, str]:
        """`PIP_*` variables for a worker; one that `shares_files` with this machine also gets the local indexes."""
        extra = self.extra_indexes if shares_files else self.remote_indexes
        index = self.index if self.index and (shares_files or local_path(self.index) is None) else None
        links = self.find_links if shares_files else (*map(str, self.wheel_folders), *self.remote_links)
        variables = {
            "PIP_INDEX_URL": index,
            "PIP_EXTRA_INDEX_URL": " ".join(extra),
            "PIP_FIND_LINKS": " ".join(links),
            "PIP_TRUSTED_HOST": " ".join(self.trusted_hosts),
            "PIP_CERT": certificate if self.certificate is not None else None,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        return {name: value for name, value in variables.items() if value}


def local_path(location: str) -> Path | None:
    """The path behind a `file:` address or a plain path; None for an address of another kind."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(location)


def _configuration_files(variables: Mapping[str, str]) -> list[Path]:
    """pip's configuration files, the weakest first (pip's documentation, "Configuration").

    A file that `PIP_CONFIG_FILE` names stands in for the user's own, where it exists.
    """
    explicit = variables.get("PIP_CONFIG_FILE")
    if explicit == os.devnull:
        return []
    home = Path(variables.get("HOME") or Path.home())
    shared = [Path(folder) / "pip" / "pip.conf" for folder in variables.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    user = Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    users = [home / ".pip" / "pip.conf", user]
    environments = Path(sys.prefix) / "pip.conf"
    if explicit and Path(explicit).exists():
        return [*shared, MACHINE_FILE, environments, Path(explicit)]
    return [*shared, MACHINE_FILE, *users, environments]


def _read_options(variables: Mapping[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for path in _configuration_files(variables):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip reports its own broken file; it names no source that could be used here
        for section in _SECTIONS:
            if parser.has_section(section):
                options.update({name.replace("_", "-"): value for name, value in parser.items(section)})
    prefix = "PIP_"
    for name, value in variables.items():
        if name.startswith(prefix) and value:
            options[name.removeprefix(prefix).lower().replace("_", "-")] = value
    return options


def _certificate(options: Mapping[str, str], variables: Mapping[str, str]) -> Path | None:
    named = [options.get("cert"), *(variables.get(name) for name in CERTIFICATE_VARIABLES)]
    for name in named:
        if name and Path(name).is_file():
            return Path(name)
    return None
