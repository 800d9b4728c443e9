"""llama.cpp's C interface, taken from the shared object of the wheel `xllamacpp`: its structures and its functions.

That package offers a server to Python, which hides batches and token numbers; the C functions it is made of are
exported all the same. Their structures change between builds, so one version alone is accepted. Source: `llama.h` of
build b11548, and the defaults that the installed library fills in, which are checked.
"""

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from harness.contract import Reason
from harness.errors import Unsupported
from harness.quantization.ggml.shared_object import HINT, Functions, open_shared_object

MOST_SEQUENCES = 256
"""`LLAMA_MAX_SEQ`."""
LOAD_WHOLE = 0
"""Of `enum llama_load_mode`: read into memory, not mapped."""
FLASH_ATTENTION_OFF = 0
"""Of `enum llama_flash_attn_type`."""
F32, F16, BF16 = 0, 1, 30
"""Of `enum ggml_type`."""
LOG_WARNING, LOG_ERROR, LOG_CONTINUED = 3, 4, 5
"""Of `enum ggml_log_level`."""

LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class ModelParameters(ctypes.Structure):
    """`struct llama_model_params`."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParameters(ctypes.Structure):
    """`struct llama_context_params`."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(ctypes.Structure):
    """`struct llama_batch`: arrays of `n_tokens` numbers; a logit row is computed where `logits` is not 0."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


_FUNCTIONS: Functions = {
    "llama_backend_init": (None, ()),
    "llama_print_system_info": (c_char_p, ()),
    "llama_log_set": (None, (LogCallback, c_void_p)),
    "llama_model_default_params": (ModelParameters, ()),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParameters)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_size": (c_uint64, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParameters)),
    "llama_free": (None, (c_void_p,)),
    "llama_n_ctx": (c_uint32, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_memory_seq_pos_max": (c_int32, (c_void_p, c_int32)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_synchronize": (None, (c_void_p,)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
}


def open_library() -> Any:
    """The shared object, with its functions declared.

    Raises:
        Unsupported: it is not installed, is of another version, or does not fill the structures as they are stated.
    """
    library = open_shared_object(_FUNCTIONS)
    library.llama_backend_init()
    _check_layout(library)
    return library


def _check_layout(library: Any) -> None:
    """The defaults that `llama.h` documents, at both ends of each structure and between."""
    context, model = library.llama_context_default_params(), library.llama_model_default_params()
    expected = {
        "n_ubatch": (context.n_ubatch, 512),
        "type_k": (context.type_k, F16),
        "type_v": (context.type_v, F16),
        "embeddings": (context.embeddings, False),
        "offload_kqv": (context.offload_kqv, True),
        "n_samplers": (context.n_samplers, 0),
        "ctx_other": (context.ctx_other, None),
        "devices": (model.devices, None),
        "use_extra_bufts": (model.use_extra_bufts, True),
        "vocab_only": (model.vocab_only, False),
    }
    if wrong := [name for name, (found, stated) in expected.items() if found != stated]:
        raise Unsupported(
            Reason.BACKEND, f"the installed llama.cpp lays {', '.join(wrong)} out differently from b11549", hint=HINT
        )
