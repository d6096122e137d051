"""Which operators an exported program may use: those of networks that compute with tensors, and arithmetic of sizes.

The list of `intake.operators` without TorchScript's language, and with the operators that only torch.export writes.
A refusal names the operator and says what to do instead.
"""

from __future__ import annotations

from gradinspect.intake.operators import ATEN

# Functions of TorchScript on texts, lists and dicts; they take and return no tensor.
_LANGUAGE = """
Bool Complex ComplexImplicit Float FloatImplicit Int IntImplicit ScalarImplicit Size __contains__ __derive_index
__getitem__ __is__ __isnot__ __not__ __range_length __round_to_zero_floordiv _get_tracing_state _infer_size _set_item
_size_if_not_equal _tensor_to_list _unwrap_optional append bin broadcast_shapes can_cast capitalize center chr clear
count degrees device dict divmod endswith expandtabs extend fabs factorial find floordiv format gamma get
get_autocast_dtype get_device hash hex insert is_autocast_cpu_enabled is_autocast_enabled is_grad_enabled isalnum
isalpha isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper items join keys len list
ljust lower lstrip mathremainder modf oct ord partition percentFormat pop popitem promote_types radians remove replace
reverse rfind rindex rjust rpartition rsplit rstrip set_grad_enabled setdefault splitlines startswith str strip swapcase
title update upper values warn zfill
"""

# Changes of a tensor's memory under it, nested tensors, and gradients inside a forward pass.
_NOT_IN_GRAPHS = """
_nested_tensor_from_mask _nested_tensor_from_mask_left_aligned cpu cuda data requires_grad_
to_padded_tensor
"""

_WRITTEN_BY_EXPORT = """
_assert_async _assert_scalar _assert_tensor_metadata _batch_norm_no_update _batch_norm_with_update
_batch_norm_with_update_functional _cdist_forward _cholesky_solve_helper _conj_copy _conj_physical _ctc_loss
_embedding_bag_forward_only _euclidean_dist _fft_c2c _fft_c2r _fft_r2c _functional_assert_async
_functional_assert_scalar _functional_sym_constrain_range _functional_sym_constrain_range_for_size _is_all_true
_is_any_true _linalg_check_errors _linalg_det _linalg_eigh _linalg_eigvals _linalg_slogdet _linalg_solve_ex _linalg_svd
_local_scalar_dense _log_softmax _logcumsumexp _native_batch_norm_legit_functional _native_batch_norm_legit_no_training
_pdist_forward _prelu_kernel _reshape_copy _softmax _unsafe_index _unsafe_index_put
as_strided_copy item lift lift_fresh_copy linalg_vector_norm log_sigmoid_forward normal_functional
rrelu_with_noise_functional slow_conv3d slow_conv_dilated2d slow_conv_dilated3d slow_conv_transpose2d
slow_conv_transpose3d sym_constrain_range sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size
sym_storage_offset sym_stride thnn_conv2d
"""

ATEN_OPERATORS = (ATEN | frozenset(_WRITTEN_BY_EXPORT.split())) - frozenset(
    [*_LANGUAGE.split(), *_NOT_IN_GRAPHS.split()]
)

# Arithmetic of sizes, by the names under which Python's and torch's functions are written.
NUMBER_OPERATORS = frozenset(
    [f"_operator.{name}" for name in (
        "add", "and_", "eq", "floordiv", "ge", "gt", "le", "lshift", "lt", "mod", "mul", "ne", "neg", "or_", "pos",
        "pow", "rshift", "sub", "truediv",
    )]
    + ["math.trunc", "math.ceil", "math.floor", "torch.sym_float", "torch.sym_int", "torch.sym_ite", "torch.sym_max",
       "torch.sym_min", "torch.sym_not", "torch.sym_sqrt", "torch._sym_sqrt"]
)  # fmt: skip

# Operators that run graphs; `cond` chooses one of two.
HIGHER_ORDER = frozenset({"cond", "invoke_subgraph", "tag_activation_checkpoint", "wrap_with_autocast",
                          "wrap_with_set_grad_enabled"})  # fmt: skip

_ADVICE = {
    "scan": "write the loop out in forward(), so that it is unrolled",
    "map_impl": "write the loop out in forward(), so that it is unrolled",
    "associative_scan": "write the loop out in forward(), so that it is unrolled",
    "while_loop": "write a loop with a known number of steps in forward(), so that it is unrolled",
    "flex_attention": "use torch.nn.functional.scaled_dot_product_attention",
    "auto_functionalized": "replace the custom operator by torch's own functions",
    "auto_functionalized_v2": "replace the custom operator by torch's own functions",
    "with_effects": "leave out the operator with side effects",
    "call_torchbind": "replace the custom class by tensors and modules",
    "triton_kernel_wrapper_mutation": "replace the Triton kernel by torch's own functions",
    "triton_kernel_wrapper_functional": "replace the Triton kernel by torch's own functions",
    "aoti_call_delegate": "save the program before it is compiled or lowered",
    "executorch_call_delegate": "save the program before it is lowered",
}
_CUSTOM = {
    "transformers": 'build the model with experts_implementation="eager" and attn_implementation="eager" or "sdpa"',
    "torchvision": "inspect the part of the model before this operator; boxes are chosen without gradients",
    "quantized": "export the model before it is quantised",
    "quantized_decomposed": "export the model before it is quantised",
}


def advice_for(namespace: str, operator: str) -> str:
    """Say what to do instead of a refused operator."""
    if namespace == "higher_order":
        return _ADVICE.get(operator, "write the same with torch's own functions in forward()")
    if namespace == "aten":
        return "replace it by another function, or run exported_program.run_decompositions() before you save it"
    return _CUSTOM.get(
        namespace, "custom operators are code that this service does not have; export with it decomposed"
    )
