// Conversions of algorithms into specifications.

impl From<OptimizerSpec> for SessionSpec {
    fn from(value: OptimizerSpec) -> Self {
        Self { optimizer: Some(value), ..Default::default() }
    }
}

impl From<SigmoidSpec> for ActivationSpec {
    fn from(value: SigmoidSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Sigmoid(value.into())), ..Default::default() }
    }
}

impl From<TanhSpec> for ActivationSpec {
    fn from(value: TanhSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Tanh(value.into())), ..Default::default() }
    }
}

impl From<ReluSpec> for ActivationSpec {
    fn from(value: ReluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Relu(value.into())), ..Default::default() }
    }
}

impl From<LeakyReluSpec> for ActivationSpec {
    fn from(value: LeakyReluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::LeakyRelu(value.into())), ..Default::default() }
    }
}

impl From<SoftmaxSpec> for ActivationSpec {
    fn from(value: SoftmaxSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Softmax(value.into())), ..Default::default() }
    }
}

impl From<PreluSpec> for ActivationSpec {
    fn from(value: PreluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Prelu(value.into())), ..Default::default() }
    }
}

impl From<RreluSpec> for ActivationSpec {
    fn from(value: RreluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Rrelu(value.into())), ..Default::default() }
    }
}

impl From<EluSpec> for ActivationSpec {
    fn from(value: EluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Elu(value.into())), ..Default::default() }
    }
}

impl From<SeluSpec> for ActivationSpec {
    fn from(value: SeluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Selu(value.into())), ..Default::default() }
    }
}

impl From<CeluSpec> for ActivationSpec {
    fn from(value: CeluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Celu(value.into())), ..Default::default() }
    }
}

impl From<GeluSpec> for ActivationSpec {
    fn from(value: GeluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Gelu(value.into())), ..Default::default() }
    }
}

impl From<SiluSpec> for ActivationSpec {
    fn from(value: SiluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Silu(value.into())), ..Default::default() }
    }
}

impl From<MishSpec> for ActivationSpec {
    fn from(value: MishSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Mish(value.into())), ..Default::default() }
    }
}

impl From<SoftplusSpec> for ActivationSpec {
    fn from(value: SoftplusSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Softplus(value.into())), ..Default::default() }
    }
}

impl From<SoftsignSpec> for ActivationSpec {
    fn from(value: SoftsignSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Softsign(value.into())), ..Default::default() }
    }
}

impl From<HardSigmoidSpec> for ActivationSpec {
    fn from(value: HardSigmoidSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::HardSigmoid(value.into())), ..Default::default() }
    }
}

impl From<HardSwishSpec> for ActivationSpec {
    fn from(value: HardSwishSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::HardSwish(value.into())), ..Default::default() }
    }
}

impl From<LogSoftmaxSpec> for ActivationSpec {
    fn from(value: LogSoftmaxSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::LogSoftmax(value.into())), ..Default::default() }
    }
}

impl From<MaxoutSpec> for ActivationSpec {
    fn from(value: MaxoutSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Maxout(value.into())), ..Default::default() }
    }
}

impl From<Relu6Spec> for ActivationSpec {
    fn from(value: Relu6Spec) -> Self {
        Self { activation: Some(activation_spec::Activation::Relu6(value.into())), ..Default::default() }
    }
}

impl From<ThresholdSpec> for ActivationSpec {
    fn from(value: ThresholdSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Threshold(value.into())), ..Default::default() }
    }
}

impl From<LinearSpec> for ActivationSpec {
    fn from(value: LinearSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Linear(value.into())), ..Default::default() }
    }
}

impl From<HardTanhSpec> for ActivationSpec {
    fn from(value: HardTanhSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::HardTanh(value.into())), ..Default::default() }
    }
}

impl From<HardShrinkSpec> for ActivationSpec {
    fn from(value: HardShrinkSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::HardShrink(value.into())), ..Default::default() }
    }
}

impl From<SoftShrinkSpec> for ActivationSpec {
    fn from(value: SoftShrinkSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::SoftShrink(value.into())), ..Default::default() }
    }
}

impl From<TanhShrinkSpec> for ActivationSpec {
    fn from(value: TanhShrinkSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::TanhShrink(value.into())), ..Default::default() }
    }
}

impl From<LogSigmoidSpec> for ActivationSpec {
    fn from(value: LogSigmoidSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::LogSigmoid(value.into())), ..Default::default() }
    }
}

impl From<SparseSigmoidSpec> for ActivationSpec {
    fn from(value: SparseSigmoidSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::SparseSigmoid(value.into())), ..Default::default() }
    }
}

impl From<SparsePlusSpec> for ActivationSpec {
    fn from(value: SparsePlusSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::SparsePlus(value.into())), ..Default::default() }
    }
}

impl From<SquareplusSpec> for ActivationSpec {
    fn from(value: SquareplusSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Squareplus(value.into())), ..Default::default() }
    }
}

impl From<ExponentialActivationSpec> for ActivationSpec {
    fn from(value: ExponentialActivationSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Exponential(value.into())), ..Default::default() }
    }
}

impl From<SoftminSpec> for ActivationSpec {
    fn from(value: SoftminSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Softmin(value.into())), ..Default::default() }
    }
}

impl From<SparsemaxSpec> for ActivationSpec {
    fn from(value: SparsemaxSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Sparsemax(value.into())), ..Default::default() }
    }
}

impl From<GluSpec> for ActivationSpec {
    fn from(value: GluSpec) -> Self {
        Self { activation: Some(activation_spec::Activation::Glu(value.into())), ..Default::default() }
    }
}

impl From<MeanSquaredErrorSpec> for LossSpec {
    fn from(value: MeanSquaredErrorSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MeanSquaredError(value.into())), ..Default::default() }
    }
}

impl From<CategoricalCrossentropySpec> for LossSpec {
    fn from(value: CategoricalCrossentropySpec) -> Self {
        Self { loss: Some(loss_spec::Loss::CategoricalCrossentropy(value.into())), ..Default::default() }
    }
}

impl From<SparseCategoricalCrossentropySpec> for LossSpec {
    fn from(value: SparseCategoricalCrossentropySpec) -> Self {
        Self { loss: Some(loss_spec::Loss::SparseCategoricalCrossentropy(value.into())), ..Default::default() }
    }
}

impl From<CustomSpec> for LossSpec {
    fn from(value: CustomSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Custom(value.into())), ..Default::default() }
    }
}

impl From<MeanAbsoluteErrorSpec> for LossSpec {
    fn from(value: MeanAbsoluteErrorSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MeanAbsoluteError(value.into())), ..Default::default() }
    }
}

impl From<HuberSpec> for LossSpec {
    fn from(value: HuberSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Huber(value.into())), ..Default::default() }
    }
}

impl From<SmoothL1Spec> for LossSpec {
    fn from(value: SmoothL1Spec) -> Self {
        Self { loss: Some(loss_spec::Loss::SmoothL1(value.into())), ..Default::default() }
    }
}

impl From<LogCoshSpec> for LossSpec {
    fn from(value: LogCoshSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::LogCosh(value.into())), ..Default::default() }
    }
}

impl From<MeanSquaredLogarithmicErrorSpec> for LossSpec {
    fn from(value: MeanSquaredLogarithmicErrorSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MeanSquaredLogarithmicError(value.into())), ..Default::default() }
    }
}

impl From<BinaryCrossentropySpec> for LossSpec {
    fn from(value: BinaryCrossentropySpec) -> Self {
        Self { loss: Some(loss_spec::Loss::BinaryCrossentropy(value.into())), ..Default::default() }
    }
}

impl From<BinaryFocalCrossentropySpec> for LossSpec {
    fn from(value: BinaryFocalCrossentropySpec) -> Self {
        Self { loss: Some(loss_spec::Loss::BinaryFocalCrossentropy(value.into())), ..Default::default() }
    }
}

impl From<CategoricalFocalCrossentropySpec> for LossSpec {
    fn from(value: CategoricalFocalCrossentropySpec) -> Self {
        Self { loss: Some(loss_spec::Loss::CategoricalFocalCrossentropy(value.into())), ..Default::default() }
    }
}

impl From<KlDivergenceSpec> for LossSpec {
    fn from(value: KlDivergenceSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::KlDivergence(value.into())), ..Default::default() }
    }
}

impl From<PoissonSpec> for LossSpec {
    fn from(value: PoissonSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Poisson(value.into())), ..Default::default() }
    }
}

impl From<HingeSpec> for LossSpec {
    fn from(value: HingeSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Hinge(value.into())), ..Default::default() }
    }
}

impl From<SquaredHingeSpec> for LossSpec {
    fn from(value: SquaredHingeSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::SquaredHinge(value.into())), ..Default::default() }
    }
}

impl From<CategoricalHingeSpec> for LossSpec {
    fn from(value: CategoricalHingeSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::CategoricalHinge(value.into())), ..Default::default() }
    }
}

impl From<CosineSimilaritySpec> for LossSpec {
    fn from(value: CosineSimilaritySpec) -> Self {
        Self { loss: Some(loss_spec::Loss::CosineSimilarity(value.into())), ..Default::default() }
    }
}

impl From<IouSpec> for LossSpec {
    fn from(value: IouSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Iou(value.into())), ..Default::default() }
    }
}

impl From<GiouSpec> for LossSpec {
    fn from(value: GiouSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Giou(value.into())), ..Default::default() }
    }
}

impl From<DiouSpec> for LossSpec {
    fn from(value: DiouSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Diou(value.into())), ..Default::default() }
    }
}

impl From<CiouSpec> for LossSpec {
    fn from(value: CiouSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Ciou(value.into())), ..Default::default() }
    }
}

impl From<NllSpec> for LossSpec {
    fn from(value: NllSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Nll(value.into())), ..Default::default() }
    }
}

impl From<GaussianNllSpec> for LossSpec {
    fn from(value: GaussianNllSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::GaussianNll(value.into())), ..Default::default() }
    }
}

impl From<SoftMarginSpec> for LossSpec {
    fn from(value: SoftMarginSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::SoftMargin(value.into())), ..Default::default() }
    }
}

impl From<MultiMarginSpec> for LossSpec {
    fn from(value: MultiMarginSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MultiMargin(value.into())), ..Default::default() }
    }
}

impl From<MultilabelMarginSpec> for LossSpec {
    fn from(value: MultilabelMarginSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MultilabelMargin(value.into())), ..Default::default() }
    }
}

impl From<MultilabelSoftMarginSpec> for LossSpec {
    fn from(value: MultilabelSoftMarginSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MultilabelSoftMargin(value.into())), ..Default::default() }
    }
}

impl From<TripletMarginSpec> for LossSpec {
    fn from(value: TripletMarginSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::TripletMargin(value.into())), ..Default::default() }
    }
}

impl From<CosineEmbeddingSpec> for LossSpec {
    fn from(value: CosineEmbeddingSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::CosineEmbedding(value.into())), ..Default::default() }
    }
}

impl From<HingeEmbeddingSpec> for LossSpec {
    fn from(value: HingeEmbeddingSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::HingeEmbedding(value.into())), ..Default::default() }
    }
}

impl From<MarginRankingSpec> for LossSpec {
    fn from(value: MarginRankingSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MarginRanking(value.into())), ..Default::default() }
    }
}

impl From<DiceSpec> for LossSpec {
    fn from(value: DiceSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Dice(value.into())), ..Default::default() }
    }
}

impl From<TverskySpec> for LossSpec {
    fn from(value: TverskySpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Tversky(value.into())), ..Default::default() }
    }
}

impl From<MeanAbsolutePercentageErrorSpec> for LossSpec {
    fn from(value: MeanAbsolutePercentageErrorSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MeanAbsolutePercentageError(value.into())), ..Default::default() }
    }
}

impl From<PerceptronSpec> for LossSpec {
    fn from(value: PerceptronSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Perceptron(value.into())), ..Default::default() }
    }
}

impl From<GeneralizedCrossentropySpec> for LossSpec {
    fn from(value: GeneralizedCrossentropySpec) -> Self {
        Self { loss: Some(loss_spec::Loss::GeneralizedCrossentropy(value.into())), ..Default::default() }
    }
}

impl From<FenchelYoungSpec> for LossSpec {
    fn from(value: FenchelYoungSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::FenchelYoung(value.into())), ..Default::default() }
    }
}

impl From<SparsemaxLossSpec> for LossSpec {
    fn from(value: SparsemaxLossSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::SparsemaxLoss(value.into())), ..Default::default() }
    }
}

impl From<MulticlassHingeSpec> for LossSpec {
    fn from(value: MulticlassHingeSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MulticlassHinge(value.into())), ..Default::default() }
    }
}

impl From<MulticlassPerceptronSpec> for LossSpec {
    fn from(value: MulticlassPerceptronSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::MulticlassPerceptron(value.into())), ..Default::default() }
    }
}

impl From<RankingSoftmaxSpec> for LossSpec {
    fn from(value: RankingSoftmaxSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::RankingSoftmax(value.into())), ..Default::default() }
    }
}

impl From<CircleSpec> for LossSpec {
    fn from(value: CircleSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Circle(value.into())), ..Default::default() }
    }
}

impl From<NtxentSpec> for LossSpec {
    fn from(value: NtxentSpec) -> Self {
        Self { loss: Some(loss_spec::Loss::Ntxent(value.into())), ..Default::default() }
    }
}

impl From<DenseSpec> for LayerSpec {
    fn from(value: DenseSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::Dense(value.into())), ..Default::default() }
    }
}

impl From<ConvolutionSpec> for LayerSpec {
    fn from(value: ConvolutionSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::Convolution(value.into())), ..Default::default() }
    }
}

impl From<PoolingSpec> for LayerSpec {
    fn from(value: PoolingSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::Pooling(value.into())), ..Default::default() }
    }
}

impl From<GlobalPoolingSpec> for LayerSpec {
    fn from(value: GlobalPoolingSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::GlobalPooling(value.into())), ..Default::default() }
    }
}

impl From<SimpleRnnSpec> for LayerSpec {
    fn from(value: SimpleRnnSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::SimpleRnn(value.into())), ..Default::default() }
    }
}

impl From<LstmSpec> for LayerSpec {
    fn from(value: LstmSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::Lstm(value.into())), ..Default::default() }
    }
}

impl From<GruSpec> for LayerSpec {
    fn from(value: GruSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::Gru(value.into())), ..Default::default() }
    }
}

impl From<EmbeddingSpec> for LayerSpec {
    fn from(value: EmbeddingSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::Embedding(value.into())), ..Default::default() }
    }
}

impl From<BatchNormalizationSpec> for LayerSpec {
    fn from(value: BatchNormalizationSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::BatchNormalization(value.into())), ..Default::default() }
    }
}

impl From<LayerNormalizationSpec> for LayerSpec {
    fn from(value: LayerNormalizationSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::LayerNormalization(value.into())), ..Default::default() }
    }
}

impl From<MultiHeadAttentionSpec> for LayerSpec {
    fn from(value: MultiHeadAttentionSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::MultiHeadAttention(value.into())), ..Default::default() }
    }
}

impl From<FlattenSpec> for LayerSpec {
    fn from(value: FlattenSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::Flatten(value.into())), ..Default::default() }
    }
}

impl From<ElementwiseSpec> for LayerSpec {
    fn from(value: ElementwiseSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::Elementwise(value.into())), ..Default::default() }
    }
}

impl From<DropoutSpec> for LayerSpec {
    fn from(value: DropoutSpec) -> Self {
        Self { layer: Some(layer_spec::Layer::Dropout(value.into())), ..Default::default() }
    }
}

impl From<SgdSpec> for OptimizerSpec {
    fn from(value: SgdSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Sgd(value.into())), ..Default::default() }
    }
}

impl From<SgdSpec> for SessionSpec {
    fn from(value: SgdSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<MomentumSpec> for OptimizerSpec {
    fn from(value: MomentumSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Momentum(value.into())), ..Default::default() }
    }
}

impl From<MomentumSpec> for SessionSpec {
    fn from(value: MomentumSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<NesterovSpec> for OptimizerSpec {
    fn from(value: NesterovSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Nesterov(value.into())), ..Default::default() }
    }
}

impl From<NesterovSpec> for SessionSpec {
    fn from(value: NesterovSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AdagradSpec> for OptimizerSpec {
    fn from(value: AdagradSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Adagrad(value.into())), ..Default::default() }
    }
}

impl From<AdagradSpec> for SessionSpec {
    fn from(value: AdagradSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<RmspropSpec> for OptimizerSpec {
    fn from(value: RmspropSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Rmsprop(value.into())), ..Default::default() }
    }
}

impl From<RmspropSpec> for SessionSpec {
    fn from(value: RmspropSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AdadeltaSpec> for OptimizerSpec {
    fn from(value: AdadeltaSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Adadelta(value.into())), ..Default::default() }
    }
}

impl From<AdadeltaSpec> for SessionSpec {
    fn from(value: AdadeltaSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AdamSpec> for OptimizerSpec {
    fn from(value: AdamSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Adam(value.into())), ..Default::default() }
    }
}

impl From<AdamSpec> for SessionSpec {
    fn from(value: AdamSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AmsgradSpec> for OptimizerSpec {
    fn from(value: AmsgradSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Amsgrad(value.into())), ..Default::default() }
    }
}

impl From<AmsgradSpec> for SessionSpec {
    fn from(value: AmsgradSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AdamwSpec> for OptimizerSpec {
    fn from(value: AdamwSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Adamw(value.into())), ..Default::default() }
    }
}

impl From<AdamwSpec> for SessionSpec {
    fn from(value: AdamwSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<NadamSpec> for OptimizerSpec {
    fn from(value: NadamSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Nadam(value.into())), ..Default::default() }
    }
}

impl From<NadamSpec> for SessionSpec {
    fn from(value: NadamSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AdamaxSpec> for OptimizerSpec {
    fn from(value: AdamaxSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Adamax(value.into())), ..Default::default() }
    }
}

impl From<AdamaxSpec> for SessionSpec {
    fn from(value: AdamaxSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<RpropSpec> for OptimizerSpec {
    fn from(value: RpropSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Rprop(value.into())), ..Default::default() }
    }
}

impl From<RpropSpec> for SessionSpec {
    fn from(value: RpropSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<RadamSpec> for OptimizerSpec {
    fn from(value: RadamSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Radam(value.into())), ..Default::default() }
    }
}

impl From<RadamSpec> for SessionSpec {
    fn from(value: RadamSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<LionSpec> for OptimizerSpec {
    fn from(value: LionSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Lion(value.into())), ..Default::default() }
    }
}

impl From<LionSpec> for SessionSpec {
    fn from(value: LionSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<YogiSpec> for OptimizerSpec {
    fn from(value: YogiSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Yogi(value.into())), ..Default::default() }
    }
}

impl From<YogiSpec> for SessionSpec {
    fn from(value: YogiSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AdabeliefSpec> for OptimizerSpec {
    fn from(value: AdabeliefSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Adabelief(value.into())), ..Default::default() }
    }
}

impl From<AdabeliefSpec> for SessionSpec {
    fn from(value: AdabeliefSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AdanSpec> for OptimizerSpec {
    fn from(value: AdanSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Adan(value.into())), ..Default::default() }
    }
}

impl From<AdanSpec> for SessionSpec {
    fn from(value: AdanSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AdoptSpec> for OptimizerSpec {
    fn from(value: AdoptSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Adopt(value.into())), ..Default::default() }
    }
}

impl From<AdoptSpec> for SessionSpec {
    fn from(value: AdoptSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<FtrlSpec> for OptimizerSpec {
    fn from(value: FtrlSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Ftrl(value.into())), ..Default::default() }
    }
}

impl From<FtrlSpec> for SessionSpec {
    fn from(value: FtrlSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<FedAvgMSpec> for OptimizerSpec {
    fn from(value: FedAvgMSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::FedAvgM(value.into())), ..Default::default() }
    }
}

impl From<FedAvgMSpec> for SessionSpec {
    fn from(value: FedAvgMSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<FedAdagradSpec> for OptimizerSpec {
    fn from(value: FedAdagradSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::FedAdagrad(value.into())), ..Default::default() }
    }
}

impl From<FedAdagradSpec> for SessionSpec {
    fn from(value: FedAdagradSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<FedAdamSpec> for OptimizerSpec {
    fn from(value: FedAdamSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::FedAdam(value.into())), ..Default::default() }
    }
}

impl From<FedAdamSpec> for SessionSpec {
    fn from(value: FedAdamSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<FedYogiSpec> for OptimizerSpec {
    fn from(value: FedYogiSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::FedYogi(value.into())), ..Default::default() }
    }
}

impl From<FedYogiSpec> for SessionSpec {
    fn from(value: FedYogiSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<ScheduleFreeSgdSpec> for OptimizerSpec {
    fn from(value: ScheduleFreeSgdSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::ScheduleFreeSgd(value.into())), ..Default::default() }
    }
}

impl From<ScheduleFreeSgdSpec> for SessionSpec {
    fn from(value: ScheduleFreeSgdSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<ScheduleFreeAdamwSpec> for OptimizerSpec {
    fn from(value: ScheduleFreeAdamwSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::ScheduleFreeAdamw(value.into())), ..Default::default() }
    }
}

impl From<ScheduleFreeAdamwSpec> for SessionSpec {
    fn from(value: ScheduleFreeAdamwSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<LambSpec> for OptimizerSpec {
    fn from(value: LambSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Lamb(value.into())), ..Default::default() }
    }
}

impl From<LambSpec> for SessionSpec {
    fn from(value: LambSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<LarsSpec> for OptimizerSpec {
    fn from(value: LarsSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Lars(value.into())), ..Default::default() }
    }
}

impl From<LarsSpec> for SessionSpec {
    fn from(value: LarsSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<AdafactorSpec> for OptimizerSpec {
    fn from(value: AdafactorSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Adafactor(value.into())), ..Default::default() }
    }
}

impl From<AdafactorSpec> for SessionSpec {
    fn from(value: AdafactorSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<MuonSpec> for OptimizerSpec {
    fn from(value: MuonSpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Muon(value.into())), ..Default::default() }
    }
}

impl From<MuonSpec> for SessionSpec {
    fn from(value: MuonSpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<ProdigySpec> for OptimizerSpec {
    fn from(value: ProdigySpec) -> Self {
        Self { algorithm: Some(optimizer_spec::Algorithm::Prodigy(value.into())), ..Default::default() }
    }
}

impl From<ProdigySpec> for SessionSpec {
    fn from(value: ProdigySpec) -> Self {
        OptimizerSpec::from(value).into()
    }
}

impl From<ExponentialSpec> for ScheduleSpec {
    fn from(value: ExponentialSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Exponential(value.into())), ..Default::default() }
    }
}

impl From<PiecewiseConstantSpec> for ScheduleSpec {
    fn from(value: PiecewiseConstantSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::PiecewiseConstant(value.into())), ..Default::default() }
    }
}

impl From<InverseTimeSpec> for ScheduleSpec {
    fn from(value: InverseTimeSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::InverseTime(value.into())), ..Default::default() }
    }
}

impl From<ConstantScheduleSpec> for ScheduleSpec {
    fn from(value: ConstantScheduleSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Constant(value.into())), ..Default::default() }
    }
}

impl From<PolynomialSpec> for ScheduleSpec {
    fn from(value: PolynomialSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Polynomial(value.into())), ..Default::default() }
    }
}

impl From<CosineSpec> for ScheduleSpec {
    fn from(value: CosineSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Cosine(value.into())), ..Default::default() }
    }
}

impl From<CosineRestartsSpec> for ScheduleSpec {
    fn from(value: CosineRestartsSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::CosineRestarts(value.into())), ..Default::default() }
    }
}

impl From<OneCycleSpec> for ScheduleSpec {
    fn from(value: OneCycleSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::OneCycle(value.into())), ..Default::default() }
    }
}

impl From<StepDecaySpec> for ScheduleSpec {
    fn from(value: StepDecaySpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::StepDecay(value.into())), ..Default::default() }
    }
}

impl From<MultiStepDecaySpec> for ScheduleSpec {
    fn from(value: MultiStepDecaySpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::MultiStepDecay(value.into())), ..Default::default() }
    }
}

impl From<RsqrtSpec> for ScheduleSpec {
    fn from(value: RsqrtSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Rsqrt(value.into())), ..Default::default() }
    }
}

impl From<WarmupStableDecaySpec> for ScheduleSpec {
    fn from(value: WarmupStableDecaySpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::WarmupStableDecay(value.into())), ..Default::default() }
    }
}

impl From<WarmupSpec> for ScheduleSpec {
    fn from(value: WarmupSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Warmup(value.into())), ..Default::default() }
    }
}

impl From<JoinSpec> for ScheduleSpec {
    fn from(value: JoinSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Join(value.into())), ..Default::default() }
    }
}

impl From<LegacyDecaySpec> for ScheduleSpec {
    fn from(value: LegacyDecaySpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::LegacyDecay(value.into())), ..Default::default() }
    }
}

impl From<CyclicSpec> for ScheduleSpec {
    fn from(value: CyclicSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Cyclic(value.into())), ..Default::default() }
    }
}

impl From<ExpressionScheduleSpec> for ScheduleSpec {
    fn from(value: ExpressionScheduleSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Expression(value.into())), ..Default::default() }
    }
}

impl From<ProductSpec> for ScheduleSpec {
    fn from(value: ProductSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::Product(value.into())), ..Default::default() }
    }
}

impl From<PiecewiseInterpolationSpec> for ScheduleSpec {
    fn from(value: PiecewiseInterpolationSpec) -> Self {
        Self { schedule: Some(schedule_spec::Schedule::PiecewiseInterpolation(value.into())), ..Default::default() }
    }
}

impl From<ZerosSpec> for InitializerSpec {
    fn from(value: ZerosSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::Zeros(value.into())), ..Default::default() }
    }
}

impl From<ConstantSpec> for InitializerSpec {
    fn from(value: ConstantSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::Constant(value.into())), ..Default::default() }
    }
}

impl From<NormalSpec> for InitializerSpec {
    fn from(value: NormalSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::Normal(value.into())), ..Default::default() }
    }
}

impl From<TruncatedNormalSpec> for InitializerSpec {
    fn from(value: TruncatedNormalSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::TruncatedNormal(value.into())), ..Default::default() }
    }
}

impl From<HeSpec> for InitializerSpec {
    fn from(value: HeSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::He(value.into())), ..Default::default() }
    }
}

impl From<GlorotSpec> for InitializerSpec {
    fn from(value: GlorotSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::Glorot(value.into())), ..Default::default() }
    }
}

impl From<UniformSpec> for InitializerSpec {
    fn from(value: UniformSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::Uniform(value.into())), ..Default::default() }
    }
}

impl From<LecunSpec> for InitializerSpec {
    fn from(value: LecunSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::Lecun(value.into())), ..Default::default() }
    }
}

impl From<VarianceScalingSpec> for InitializerSpec {
    fn from(value: VarianceScalingSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::VarianceScaling(value.into())), ..Default::default() }
    }
}

impl From<OrthogonalSpec> for InitializerSpec {
    fn from(value: OrthogonalSpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::Orthogonal(value.into())), ..Default::default() }
    }
}

impl From<IdentitySpec> for InitializerSpec {
    fn from(value: IdentitySpec) -> Self {
        Self { initializer: Some(initializer_spec::Initializer::Identity(value.into())), ..Default::default() }
    }
}

impl From<CoordinationSolo> for CoordinationSpec {
    fn from(value: CoordinationSolo) -> Self {
        Self { mode: Some(coordination_spec::Mode::Solo(value.into())), ..Default::default() }
    }
}

impl From<CoordinationSync> for CoordinationSpec {
    fn from(value: CoordinationSync) -> Self {
        Self { mode: Some(coordination_spec::Mode::Sync(value.into())), ..Default::default() }
    }
}

impl From<CoordinationAsync> for CoordinationSpec {
    fn from(value: CoordinationAsync) -> Self {
        Self { mode: Some(coordination_spec::Mode::Async(value.into())), ..Default::default() }
    }
}

impl From<CoordinationBounded> for CoordinationSpec {
    fn from(value: CoordinationBounded) -> Self {
        Self { mode: Some(coordination_spec::Mode::Bounded(value.into())), ..Default::default() }
    }
}

impl From<CoordinationRounds> for CoordinationSpec {
    fn from(value: CoordinationRounds) -> Self {
        Self { mode: Some(coordination_spec::Mode::Rounds(value.into())), ..Default::default() }
    }
}

impl From<ClipByValue> for ClipSpec {
    fn from(value: ClipByValue) -> Self {
        Self { clip: Some(clip_spec::Clip::ByValue(value.into())), ..Default::default() }
    }
}
