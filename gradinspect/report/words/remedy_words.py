"""A remedy, which the report records for programs, as a sentence."""

from __future__ import annotations

from gradinspect.contracts.report.report import Remedy
from gradinspect.report.words.figures import printable

_REMEDIES = {
    "initialize": "Initialise the weights with {function}.",
    "replace_activation": "Replace {from} by {to}, and initialise the weights for it.",
    "add_residual": "Add skip connections around every one or two layers.",
    "scale_residual": "Scale each residual branch by {scale}.",
    "add_normalization": "Add normalisation ({kind}), or {or}.",
    "revive_units": "Set the biases to zero and initialise the weights of these layers again, or use leaky_relu.",
    "scale_weights": "Multiply the weights of these layers by {factor}.",
    "set_learning_rate": "Use {optimizer} with a learning rate near {lr:.3g}, at which this model learned its batch.",
    "warm_up": "Warm up over the first steps, or stay under a rate of {lr:.2g}.",
    "set_loss_scale": "Use a loss scale of {loss_scale:g}.",
    "use_precision": "Use {dtype}.",
    "use_lr_scales": "Let gradinspect suggest learning-rate scales (lr_scales, --lr-scales), or use Adam.",
    "apply_lr_scales": "Use the learning-rate scales that this report suggests, or Adam.",
    "use_adam": "Use Adam; the learning-rate scales of this report were not found to help.",
    "unfreeze": "If this was not meant, let them train again.",
    "separate_loss_terms": "Weigh the terms, give them separate layers, or project out the parts that conflict.",
    "weigh_loss_terms": "Multiply the terms of the loss by weights that bring their gradients to one size.",
    "remove_or_connect": "Remove them, or connect them to the output in forward().",
    "unblock_gradient": "Look for what blocks the gradient: dead units, zero weights, clamp, round, detach.",
    "check_operation": "Look at the operation in this layer: a division, a logarithm, a root or an exponential.",
    "mend_operation": "{change}",
    "check_samples": "Check how inputs and targets are paired, and whether samples repeat.",
    "check_target": "Check the target: classes out of range, or values that are not finite.",
    "restore_weights": "Load a checkpoint from before the weights became NaN.",
    "check_initialization": "Compare the weights' variance with what the initialiser should give.",
    "standardise_inputs": "Standardise the inputs: subtract the mean of each feature and divide by its deviation.",
    "standardise_targets": "Standardise the targets, and undo it on the predictions.",
    "change_normalisation": "Use {to}.",
    "set_mode": "Inspect in {mode} mode, or train first.",
    "redraw_weights": "Draw these weights at random, each with its own values.",
    "register_parameter": "Register them: {with}.",
    "add_to_optimizer": "Make the optimizer from model.parameters(), after the model is complete.",
    "set_optimizer": "Change the optimizer's settings, or {or}.",
    "lower_learning_rate": "Use a smaller learning rate, or warm up over the first steps.",
    "reshape_target": "Give output and target the same shape: from {from} to {to}.",
    "remove_output_activation": "Return the values from before the last {function}.",
    "change_loss": "Use {to} in place of {from}.",
    "rescale_targets": "Bring the targets to {to}.",
    "increase_batch_size": "A batch of {samples} samples would balance signal and noise.",
}


def remedy_in_words(remedy: Remedy) -> str | None:
    """Write a remedy's action as a sentence; None for an unknown action."""
    sentence = _REMEDIES.get(remedy.action)
    if sentence is None:
        return None
    try:
        return printable(sentence.format(**remedy.arguments))
    except (KeyError, ValueError, AttributeError, IndexError):
        return None
