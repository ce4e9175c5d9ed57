"""The systems that are timed, as functions from X to Y: the frozen layer, PEFT, and rank-r products added with beta = 1."""

import importlib.util

import torch


class Layer:
    """A frozen linear layer [k → n] with an adapter of rank r, with PyTorch's layouts: W [n, k], A [r, k], B [n, r]."""

    def __init__(self, k, n, r, device, dtype):
        self.k, self.n, self.r, self.scale = k, n, r, 2.0
        self.device, self.dtype = device, dtype

        def random(rows, cols):
            return torch.randn(rows, cols, device=device, dtype=dtype) / cols**0.5

        self.w = random(n, k)
        self.a = random(r, k).requires_grad_()
        self.b = random(n, r).requires_grad_()

    def parameters(self):
        return [self.a, self.b]


class AddedProducts(torch.autograd.Function):
    """Unsloth's way: no intermediate of Y's size, but Y and dX are read and written once more."""

    @staticmethod
    def forward(ctx, x, w, a, b, scale):
        y = x @ w.t()
        y.addmm_(x @ a.t(), b.t(), alpha=scale)
        ctx.save_for_backward(x, w, a, b)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, a, b = ctx.saved_tensors
        dy_b = dy @ b
        da = ctx.scale * (dy_b.t() @ x)
        db = ctx.scale * (dy.t() @ (x @ a.t()))
        dx = dy @ w
        dx.addmm_(dy_b, a, alpha=ctx.scale)
        return dx, None, da, db, None


def frozen(layer):
    return lambda x: torch.nn.functional.linear(x, layer.w)


def addmm(layer):
    return lambda x: AddedProducts.apply(x, layer.w, layer.a, layer.b, layer.scale)


def peft(layer, probability):
    """The layer inside PEFT, which makes an adapter of its own of the same shape and element type."""
    from peft import LoraConfig, get_peft_model

    linear = torch.nn.Linear(layer.k, layer.n, bias=False, device=layer.device, dtype=layer.dtype)
    linear.weight.data = layer.w
    config = LoraConfig(
        r=layer.r,
        lora_alpha=layer.scale * layer.r,
        lora_dropout=probability,
        target_modules=["0"],
        init_lora_weights=False,
    )
    model = get_peft_model(torch.nn.Sequential(linear), config, autocast_adapter_dtype=False)
    return model.train()


def systems(layer, compiled):
    """Yields (name, dropout probability, function, parameters); the frozen layer first, because ratios are to it."""
    yield "frozen", 0.0, frozen(layer), []
    yield "addmm", 0.0, addmm(layer), layer.parameters()
    if importlib.util.find_spec("peft") is None:
        print("SKIPPED PEFT: it is not installed", flush=True)
        return
    for probability in (0.0, 0.1):
        model = peft(layer, probability)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        yield "peft", probability, model, parameters
        if compiled:
            yield "peft-compiled", probability, torch.compile(model), parameters
