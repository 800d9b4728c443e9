"""A package index of one's own: a folder of tiny wheels, with the pages that installers read."""

import io
import tarfile
import zipfile
from pathlib import Path

from harness.contract import digest_file
from orchestrator.images.package_sources import PackageSources


class PackageIndex:
    """`add` makes a wheel with one module, `add_source` what has to be built; `sources` knows this index alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)

    @property
    def address(self) -> str:
        return self._folder.as_uri()

    @property
    def sources(self) -> PackageSources:
        return PackageSources(index=self.address)

    def add(self, project: str, version: str, content: str = "") -> str:
        """Add a package and return its pin with the wheel's hash, as a line of a lock."""
        wheel = self._page(project) / f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
        write_wheel(wheel, project, version, content)
        return self._pin(project, version, wheel)

    def add_source(self, project: str, version: str, backend: str) -> str:
        """Add a package that the module `backend` builds, and return its pin."""
        archive = self._page(project) / f"{project}-{version}.tar.gz"
        with tarfile.open(archive, "w:gz") as sources:
            for name, text in {
                "PKG-INFO": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
                "pyproject.toml": f'[build-system]\nrequires = ["{backend}"]\nbuild-backend = "{backend}"\n',
            }.items():
                entry = tarfile.TarInfo(f"{project}-{version}/{name}")
                entry.size = len(text.encode())
                sources.addfile(entry, io.BytesIO(text.encode()))
        return self._pin(project, version, archive)

    def _page(self, project: str) -> Path:
        page = self._folder / project
        page.mkdir(exist_ok=True)
        return page

    def _pin(self, project: str, version: str, file: Path) -> str:
        files = sorted(one for one in file.parent.iterdir() if one.name != "index.html")
        links = [f'<a href="{one.name}#sha256={digest_file(one)}">{one.name}</a>' for one in files]
        (file.parent / "index.html").write_text("\n".join(links))
        return f"{project}=={version} --hash=sha256:{digest_file(file)}\n"


def write_wheel(wheel: Path, project: str, version: str, content: str = "") -> None:
    """A wheel with one module, which knows its version."""
    module = project.replace("-", "_")
    metadata = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{module}.py", f"version = {version!r}\n{content}")
        archive.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{metadata}/RECORD", "")
