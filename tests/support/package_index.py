"""A package index of one's own: a folder of tiny wheels, with the pages that installers read."""

import zipfile
from pathlib import Path

from harness.contract import digest_file
from orchestrator.images.package_sources import PackageSources


class PackageIndex:
    """`add` makes a wheel with one module; `sources` is a pip configuration that knows this index alone."""

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
        page = self._folder / project
        page.mkdir(exist_ok=True)
        module = project.replace("-", "_")
        wheel = page / f"{module}-{version}-py3-none-any.whl"
        metadata = f"{module}-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{module}.py", f"version = {version!r}\n{content}")
            archive.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
            archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{metadata}/RECORD", "")
        links = [f'<a href="{one.name}#sha256={digest_file(one)}">{one.name}</a>' for one in sorted(page.glob("*.whl"))]
        (page / "index.html").write_text("\n".join(links))
        return f"{project}=={version} --hash=sha256:{digest_file(wheel)}\n"
