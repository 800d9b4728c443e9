"""What each image's description names is there: modules, options, and who answers the requests of a task."""

import importlib

import pytest

from harness.backends.base import Backend
from harness.contract import OPTIONS_NAME, BackendDescription, Frozen, MethodDescription, Reason
from harness.errors import BadRequest, Unsupported
from harness.evaluation.deployed import Scoring
from harness.operations import offered_module
from harness.option_schemas import option_schemas, schema_text
from tests.support.every_image import IMAGES as IMAGES_FOLDER
from tests.support.every_image import described_images

IMAGES = described_images()
METHODS = [method for image in IMAGES.values() for method in image.methods]
BACKENDS = [backend for image in IMAGES.values() for backend in image.backends]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_module_of_every_method_reads_its_requests_and_has_a_model_of_its_options(
    method: MethodDescription,
) -> None:
    module = importlib.import_module(str(method.module))
    assert callable(module.parse)
    assert issubclass(module.OPTIONS[method.name], Frozen)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_the_module_of_every_backend_serves_and_scores_where_its_image_says_so(backend: BackendDescription) -> None:
    module = importlib.import_module(str(backend.module))
    assert isinstance(module.BACKEND, Backend)
    assert isinstance(getattr(module, "SCORING", None), Scoring) == backend.scores


def test_a_name_that_the_image_does_not_offer_is_refused_with_the_nearest() -> None:
    with pytest.raises(Unsupported, match=r"this image has no method 'gtpq'; did you mean 'gptq'\?") as refused:
        offered_module(IMAGES["gptq"].methods, "gtpq", Reason.METHOD)
    assert (refused.value.reason, refused.value.hint) == (Reason.METHOD, "it has: gptq")


@pytest.mark.parametrize(
    ("module", "words"),
    [(None, "names no module for 'gptq'"), ("harness.methods.of_another_image", "names a module for 'gptq' that is")],
)
def test_a_description_that_names_no_module_that_is_here_is_refused(module: str | None, words: str) -> None:
    (method,) = IMAGES["gptq"].methods
    with pytest.raises(BadRequest, match=words):
        offered_module([method.model_copy(update={"module": module})], "gptq", Reason.METHOD)


@pytest.mark.parametrize("name", [name for name, image in IMAGES.items() if image.methods or image.backends])
def test_the_options_beside_each_image_are_those_of_its_models(name: str) -> None:
    committed = (IMAGES_FOLDER / name / OPTIONS_NAME).read_text(encoding="utf-8")
    assert committed == schema_text(option_schemas(IMAGES[name])), "run `make schema`"
