"""The losses of the frameworks."""

from __future__ import annotations

from tests.conformance.parity.entry import Table, excuse, here

MEAN = "reduction LOSS_REDUCTION_SUM_OVER_BATCH_SIZE"
WEIGHTED = "reduction LOSS_REDUCTION_MEAN_WITH_SAMPLE_WEIGHT"
SEQUENCES = excuse("sums over the alignments of a sequence: needs lengths beside the predictions")

KERAS = {
    "BinaryCrossentropy": here("binary_crossentropy"),
    "BinaryFocalCrossentropy": here("binary_focal_crossentropy"),
    "CTC": SEQUENCES,
    "CategoricalCrossentropy": here("categorical_crossentropy"),
    "CategoricalFocalCrossentropy": here("categorical_focal_crossentropy"),
    "CategoricalGeneralizedCrossEntropy": here("generalized_crossentropy"),
    "CategoricalHinge": here("categorical_hinge"),
    "Circle": here("circle"),
    "CosineSimilarity": here("cosine_similarity"),
    "Dice": here("dice"),
    "Hinge": here("hinge"),
    "Huber": here("huber"),
    "KLDivergence": here("kl_divergence"),
    "LogCosh": here("log_cosh"),
    "Loss": excuse("base class of others"),
    "MeanAbsoluteError": here("mean_absolute_error"),
    "MeanAbsolutePercentageError": here("mean_absolute_percentage_error"),
    "MeanSquaredError": here("mean_squared_error"),
    "MeanSquaredLogarithmicError": here("mean_squared_logarithmic_error"),
    "Poisson": here("poisson"),
    "SparseCategoricalCrossentropy": here("sparse_categorical_crossentropy"),
    "SquaredHinge": here("squared_hinge"),
    "Tversky": here("tversky"),
}

TORCH = {
    "AdaptiveLogSoftmaxWithLoss": excuse("a layer with parameters of its own"),
    "BCELoss": here("binary_crossentropy", "from_logits false; weight is sample_weight"),
    "BCEWithLogitsLoss": here("binary_crossentropy", "pos_weight is positive_weights"),
    "CTCLoss": SEQUENCES,
    "CosineEmbeddingLoss": here("cosine_embedding"),
    "CrossEntropyLoss": here(
        "sparse_categorical_crossentropy",
        f"of indices, {WEIGHTED}; of distributions categorical_crossentropy",
    ),
    "GaussianNLLLoss": here("gaussian_nll"),
    "HingeEmbeddingLoss": here("hinge_embedding"),
    "HuberLoss": here("huber"),
    "KLDivLoss": here("kl_divergence", "reduction of batchmean"),
    "L1Loss": here("mean_absolute_error"),
    "LinearCrossEntropyLoss": excuse("a layer with parameters of its own"),
    "MSELoss": here("mean_squared_error"),
    "MarginRankingLoss": here("margin_ranking"),
    "MultiLabelMarginLoss": here("multilabel_margin"),
    "MultiLabelSoftMarginLoss": here("multilabel_soft_margin"),
    "MultiMarginLoss": here("multi_margin"),
    "NLLLoss": here("nll", WEIGHTED),
    "NLLLoss2d": here("nll", f"deprecated there; {WEIGHTED}"),
    "PoissonNLLLoss": here("poisson"),
    "SmoothL1Loss": here("smooth_l1"),
    "SoftMarginLoss": here("soft_margin"),
    "TripletMarginLoss": here("triplet_margin"),
    "TripletMarginWithDistanceLoss": here(
        "triplet_margin", "distance Minkowski or cosine; a function of the caller's cannot be sent"
    ),
}

OPTAX = {
    "binary_dice_loss": excuse("dice of sigmoids with a smoothing constant on both sides of the fraction"),
    "convex_kl_divergence": excuse("deprecated there for generalized_kl_divergence"),
    "cosine_distance": here("cosine_similarity", "greater by 1"),
    "cosine_similarity": here("cosine_similarity", "of the other sign"),
    "ctc_loss": SEQUENCES,
    "ctc_loss_with_forward_probs": SEQUENCES,
    "dice_loss": excuse("dice of softmaxes with a smoothing constant on both sides of the fraction"),
    "generalized_kl_divergence": excuse("kl_divergence and poisson with log_prediction, without y, added"),
    "hinge_loss": here("hinge"),
    "huber_loss": here("huber"),
    "kl_divergence": here("kl_divergence"),
    "kl_divergence_with_log_targets": here("kl_divergence", "log_target"),
    "l2_loss": excuse("half of mean_squared_error: halve sample_weight"),
    "log_cosh": here("log_cosh"),
    "make_fenchel_young_loss": here("fenchel_young", "of three regularizers; a function cannot be sent"),
    "multiclass_generalized_dice_loss": excuse("dice_loss with weights of classes from the batch"),
    "multiclass_hinge_loss": here("multiclass_hinge"),
    "multiclass_perceptron_loss": here("multiclass_perceptron"),
    "multiclass_sparsemax_loss": here("fenchel_young", "regularizer GINI, of one-hot targets"),
    "ntxent": here("ntxent", MEAN),
    "perceptron_loss": here("perceptron"),
    "poly_loss_cross_entropy": excuse("categorical_crossentropy with a further term, of optax alone"),
    "ranking_softmax_loss": here("ranking_softmax"),
    "safe_softmax_cross_entropy": here("categorical_crossentropy", "which is as safe"),
    "sigmoid_binary_cross_entropy": here("binary_crossentropy"),
    "sigmoid_focal_loss": here("binary_focal_crossentropy"),
    "smooth_labels": excuse("makes targets: label_smoothing of the losses that take it"),
    "softmax_cross_entropy": here("categorical_crossentropy"),
    "softmax_cross_entropy_with_integer_labels": here("sparse_categorical_crossentropy"),
    "sparsemax_loss": here("sparsemax_loss"),
    "squared_error": here("mean_squared_error"),
    "triplet_margin_loss": here("triplet_margin"),
}

LOSSES: Table = {"keras": KERAS, "torch": TORCH, "optax": OPTAX}
