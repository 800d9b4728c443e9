from pathlib import Path

import pytest

from orchestrator.images import package_sources
from orchestrator.images.package_sources import PackageSources


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home, on a machine that has no configuration of its own."""
    monkeypatch.setattr(package_sources, "MACHINE_FILE", tmp_path / "none")
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    return tmp_path


def configured(home: Path, text: str = "", **variables: str) -> PackageSources:
    (home / ".config" / "pip" / "pip.conf").write_text(text)
    return PackageSources.configured({"HOME": str(home), "XDG_CONFIG_DIRS": str(home / "none"), **variables})


def test_pips_files_are_read_and_its_variables_win(home):
    text = "[global]\nindex-url = https://file.example/simple\nextra-index-url =\n    https://a.example\n    https://b.example\n"

    from_file = configured(home, text)
    from_variable = configured(home, text, PIP_INDEX_URL="https://variable.example/simple")

    assert from_file.index == "https://file.example/simple"
    assert from_file.extra_indexes == ("https://a.example", "https://b.example")
    assert from_variable.index == "https://variable.example/simple"
    assert from_variable.extra_indexes == from_file.extra_indexes


def test_a_section_of_a_command_counts_more_than_the_global_one(home):
    sources = configured(home, "[global]\nindex-url = https://a.example\n[install]\nindex-url = https://b.example\n")

    assert sources.index == "https://b.example"


def test_uv_gets_folders_of_wheels_and_reachable_indexes(home):
    wheels = home / "wheels"
    wheels.mkdir()
    sources = configured(
        home,
        PIP_FIND_LINKS=f"{wheels} {home / 'missing'}",
        PIP_EXTRA_INDEX_URL=f"https://a.example/simple file://{home / 'missing'}",
        PIP_TRUSTED_HOST="a.example",
    )

    arguments = " ".join(sources.uv_arguments())

    assert f"--find-links {wheels}" in arguments
    assert "--extra-index-url https://a.example/simple" in arguments
    assert "--allow-insecure-host a.example" in arguments
    assert "missing" not in arguments


def test_a_worker_elsewhere_gets_no_address_that_only_this_machine_understands(home):
    sources = configured(
        home, PIP_EXTRA_INDEX_URL=f"file://{home} https://a.example", PIP_INDEX_URL="https://i.example"
    )

    assert sources.pip_environment(certificate=None, shares_files=False)["PIP_EXTRA_INDEX_URL"] == "https://a.example"
    assert f"file://{home}" in sources.pip_environment(certificate=None, shares_files=True)["PIP_EXTRA_INDEX_URL"]
    assert "file:" not in sources.pip_configuration(certificate=None)
    assert "index-url = https://i.example" in sources.pip_configuration(certificate=None)


def test_the_ca_bundle_is_named_where_it_will_be(home):
    bundle = home / "ca.pem"
    bundle.write_text("certificates")
    sources = configured(home, SSL_CERT_FILE=str(bundle))

    assert sources.certificate == bundle
    assert "cert = /elsewhere/ca.crt" in sources.pip_configuration(certificate="/elsewhere/ca.crt")
    assert (
        sources.pip_environment(certificate="/elsewhere/ca.crt", shares_files=False)["PIP_CERT"] == "/elsewhere/ca.crt"
    )


def test_a_ca_bundle_that_is_not_there_is_not_used(home):
    assert configured(home, SSL_CERT_FILE=str(home / "missing.pem")).certificate is None


@pytest.mark.parametrize("address", ["http://127.0.0.1:3128", "http://localhost:3128", "http://[::1]:3128"])
def test_a_proxy_of_this_machine_is_noticed(home, address):
    assert configured(home, HTTPS_PROXY=address).uses_loopback
    assert not configured(home, HTTPS_PROXY="http://proxy.example:3128").uses_loopback


def test_a_broken_configuration_file_names_no_source(home):
    assert configured(home, "index-url = nowhere\n").index is None
