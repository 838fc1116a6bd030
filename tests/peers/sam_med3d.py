"""SAM-Med3D in PyTorch: what the CPU and CUDA implementation of this project is compared with, in value and in time.

Written from spec/semisam.md, section 7, with the published state-dict names; no code of the original is used. By default
an image is encoded as the original does it: tokens are padded to whole windows, and all of them, padding included, are
queries and keys. `only_real_queries=True` leaves the padded queries out, which changes nothing in the result.

    python sam_med3d.py check WEIGHTS.pth IO.safetensors     values against a reference file
    python sam_med3d.py make OUT.safetensors [--small]       random weights of the published (or a small) size
    python sam_med3d.py reference OUT.safetensors            random weights, and OUT_io.safetensors with what they compute
    python sam_med3d.py time [--threads N] [--runs N]        milliseconds per encode and per prompt
"""

import argparse
import math
import statistics
import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn


@dataclass
class Config:
    """Sizes; the defaults are those of the published network."""

    grid: int = 8
    patch: int = 16
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    windows: list = field(default_factory=lambda: [8 if block % 3 == 2 else 14 for block in range(12)])
    channels: int = 384
    score_hidden: int = 256
    masks: int = 4

    @property
    def image(self):
        return self.grid * self.patch

    @staticmethod
    def small():
        return Config(grid=4, patch=16, width=48, heads=4, hidden=192, windows=[3, 4, 3, 4], channels=48, score_hidden=32)

    @staticmethod
    def of(state):
        places = state["image_encoder.pos_embed"].shape
        depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("image_encoder.blocks."))
        tables = [state[f"image_encoder.blocks.{block}.attn.rel_pos_d"].shape for block in range(depth)]
        return Config(
            grid=places[1],
            patch=state["image_encoder.patch_embed.proj.weight"].shape[2],
            width=places[4],
            heads=places[4] // tables[0][1],
            hidden=state["image_encoder.blocks.0.mlp.lin1.bias"].shape[0],
            windows=[(rows + 1) // 2 for rows, _ in tables],
            channels=state["mask_decoder.iou_token.weight"].shape[1],
            score_hidden=state["mask_decoder.iou_prediction_head.layers.0.bias"].shape[0],
            masks=state["mask_decoder.mask_tokens.weight"].shape[0],
        )


class WindowAttention(nn.Module):
    """Attention within cubic windows, with relative positions added to the logits."""

    def __init__(self, config, window):
        super().__init__()
        self.window, self.heads = window, config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        for axis in "dhw":
            table = nn.Parameter(torch.zeros(2 * window - 1, config.width // config.heads))
            self.register_parameter(f"rel_pos_{axis}", table)
        self.only_real_queries = False

    def forward(self, x):  # [batch, d, h, w, width]
        batch, *grid, width = x.shape
        side = self.window
        if self.only_real_queries and max(grid) <= side:
            return self.attend(*self.padded_after_projection(x))
        counts = [-(-extent // side) for extent in grid]
        short = [count * side - extent for count, extent in zip(counts, grid)]
        x = F.pad(x, (0, 0, 0, short[2], 0, short[1], 0, short[0]))
        d, h, w = counts
        x = x.view(batch, d, side, h, side, w, side, width).permute(0, 1, 3, 5, 2, 4, 6, 7)
        q, k, v = self.qkv(x.reshape(-1, side, side, side, width)).chunk(3, -1)
        y = self.attend(q, q, k, v).view(batch, d, h, w, side, side, side, width).permute(0, 1, 4, 2, 5, 3, 6, 7)
        y = y.reshape(batch, d * side, h * side, w * side, width)
        return y[:, : grid[0], : grid[1], : grid[2]]

    def padded_after_projection(self, x):
        """A padded token is zero before the projection, so it is the bias behind it."""
        side, (d, h, w) = self.window, x.shape[1:4]
        padded = self.qkv.bias.expand(x.shape[0], side, side, side, -1).clone()
        padded[:, :d, :h, :w] = self.qkv(x)
        q, k, v = padded.chunk(3, -1)
        return q[:, :d, :h, :w], q[:, :d, :h], k, v

    def attend(self, q, rows, k, v):
        """The first `q` tokens along each axis ask all of the window; `rows` are q along all of the last axis."""
        windows, d, h, w, width = q.shape
        side, head = self.window, width // self.heads
        split = lambda x: x.unflatten(-1, (self.heads, head)).permute(0, 4, 1, 2, 3, 5)  # [windows, heads, d, h, w, head]
        q, rows = split(q), split(rows)
        k, v = split(k).flatten(2, 4), split(v).flatten(2, 4)
        logits = (q.flatten(2, 4) * head**-0.5) @ k.transpose(-2, -1)
        logits = logits.view(windows, self.heads, d, h, w, side, side, side)
        offsets = torch.arange(side)[:, None] - torch.arange(side)[None] + side - 1
        # The published code adds the relative terms along other axes than their names say: all three by the key's last
        # axis, and those of h and w with the query that stands where the key's first and second axis point.
        of_d = torch.einsum("nxdhwc,dkc->nxdhwk", q, self.rel_pos_d[offsets[:d]])
        of_h = torch.einsum("nxdhwc,hkc->nxdhwk", rows, self.rel_pos_h[offsets[:h]])
        of_w = torch.einsum("nxdhwc,wkc->nxdhwk", rows, self.rel_pos_w[offsets])
        logits = logits + of_d[..., None, None, :] + of_h[:, :, :, :, None, :, None] + of_w[:, :, :, :, None, None]
        y = logits.view(windows, self.heads, d * h * w, side**3).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(windows, d, h, w, width))


class TwoLayers(nn.Module):
    def __init__(self, width, hidden, activation):
        super().__init__()
        self.lin1, self.lin2, self.activation = nn.Linear(width, hidden), nn.Linear(hidden, width), activation

    def forward(self, x):
        return self.lin2(self.activation(self.lin1(x)))


class Block(nn.Module):
    def __init__(self, config, window):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, eps=1e-6) for _ in range(2))
        self.attn = WindowAttention(config, window)
        self.mlp = TwoLayers(config.width, config.hidden, F.gelu)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ChannelNorm(nn.Module):
    """Each voxel over its channels."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return x * self.weight[:, None, None, None] + self.bias[:, None, None, None]


class Patches(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.proj = nn.Conv3d(1, config.width, config.patch, config.patch)

    def forward(self, x):
        return self.proj(x).permute(0, 2, 3, 4, 1)


class ImageEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.patch_embed = Patches(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid, config.grid, config.grid, config.width))
        self.blocks = nn.ModuleList(Block(config, window) for window in config.windows)
        self.neck = nn.Sequential(
            nn.Conv3d(config.width, config.channels, 1, bias=False),
            ChannelNorm(config.channels),
            nn.Conv3d(config.channels, config.channels, 3, padding=1, bias=False),
            ChannelNorm(config.channels),
        )

    def forward(self, image):
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 4, 1, 2, 3))


class PositionalEncoding(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, config.channels // 3))

    def forward(self, share):
        angle = 2 * math.pi * ((2 * share - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angle.sin(), angle.cos(), angle.sin()], -1)


class PromptEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.pe_layer = PositionalEncoding(config)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, config.channels) for _ in range(2))
        self.not_a_point_embed = nn.Embedding(1, config.channels)
        self.no_mask_embed = nn.Embedding(1, config.channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, 4, 2, 2), ChannelNorm(4), nn.GELU(),
            nn.Conv3d(4, 16, 2, 2), ChannelNorm(16), nn.GELU(),
            nn.Conv3d(16, config.channels, 1),
        )  # fmt: skip

    def dense_pe(self):
        centres = (torch.arange(self.config.grid) + 0.5) / self.config.grid
        i, j, k = torch.meshgrid(centres, centres, centres, indexing="ij")
        return self.pe_layer(torch.stack([j, i, k], -1)).permute(3, 0, 1, 2)[None]

    def forward(self, points=None, labels=None, mask=None):
        batch = next(prompt.shape[0] for prompt in (points, mask) if prompt is not None)
        sparse = torch.empty(batch, 0, self.config.channels)
        if points is not None:
            points = torch.cat([points + 0.5, torch.zeros(batch, 1, 3)], 1)
            labels = torch.cat([labels, -torch.ones(batch, 1)], 1)[..., None]
            sparse = self.pe_layer(points / self.config.image)
            sparse = torch.where(labels == -1, self.not_a_point_embed.weight, sparse)
            for label, embedding in enumerate(self.point_embeddings):
                sparse = torch.where(labels == label, sparse + embedding.weight, sparse)
        if mask is not None:
            return sparse, self.mask_downscaling(mask)
        side = self.config.grid
        return sparse, self.no_mask_embed.weight.view(1, -1, 1, 1, 1).expand(batch, -1, side, side, side)


class Attention(nn.Module):
    def __init__(self, width, inner, heads=8):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q, k, v):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width, first):
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, width)
        self.cross_attn_token_to_image = Attention(width, width // 2)
        self.cross_attn_image_to_token = Attention(width, width // 2)
        self.mlp = TwoLayers(width, 2048, F.relu)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(self, tokens, image, names, places):
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            tokens = tokens + self.self_attn(tokens + names, tokens + names, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + names, image + places, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image + places, tokens + names, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.ModuleList([Layer(width, True), Layer(width, False)])
        self.final_attn_token_to_image = Attention(width, width // 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, tokens, image, places):
        names = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, names, places)
        attended = self.final_attn_token_to_image(tokens + names, image + places, image)
        return self.norm_final_attn(tokens + attended), image


class ThreeLayers(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)])

    def forward(self, x):
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class MaskDecoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.channels
        self.transformer = TwoWayTransformer(width)
        self.iou_token, self.mask_tokens = nn.Embedding(1, width), nn.Embedding(config.masks, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(width, width // 4, 2, 2), ChannelNorm(width // 4), nn.GELU(),
            nn.ConvTranspose3d(width // 4, width // 8, 2, 2), nn.GELU(),
        )  # fmt: skip
        self.output_hypernetworks_mlps = nn.ModuleList(
            ThreeLayers(width, width, width // 8) for _ in range(config.masks)
        )
        self.iou_prediction_head = ThreeLayers(width, config.score_hidden, config.masks)

    def forward(self, embedding, places, sparse, dense):
        batch = sparse.shape[0]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(batch, -1, -1)
        image = embedding + dense
        tokens, rows = self.transformer(
            torch.cat([own, sparse], 1), image.flatten(2).transpose(1, 2), places.flatten(2).transpose(1, 2)
        )
        features = self.output_upscaling(rows.transpose(1, 2).reshape(image.shape))
        weights = torch.stack([mlp(tokens[:, 1 + n]) for n, mlp in enumerate(self.output_hypernetworks_mlps)], 1)
        masks = torch.einsum("bmc,bcdhw->bmdhw", weights, features)
        return masks, self.iou_prediction_head(tokens[:, 0])


class SamMed3D(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)

    def only_real_queries(self, on=True):
        for block in self.image_encoder.blocks:
            block.attn.only_real_queries = on
        return self


def build(config=None, seed=0, only_real_queries=False):
    """A model with random weights, none of them zero or one throughout."""
    torch.manual_seed(seed)
    model = SamMed3D(config or Config()).eval().requires_grad_(False)
    for name, tensor in model.state_dict().items():
        if "rel_pos" in name or name.endswith(("pos_embed", "embed.weight", "token.weight", "tokens.weight")):
            tensor.normal_(std=0.3)
        elif tensor.dim() == 1:
            tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return model.only_real_queries(only_real_queries)


def load(path):
    """A published checkpoint, or safetensors; only tensors of a checkpoint are used."""
    if str(path).endswith(".safetensors"):
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=False)
        state = state.get("model_state_dict", state)
    model = SamMed3D(Config.of(state)).eval().requires_grad_(False)
    model.load_state_dict(state)
    return model


def save(model, path):
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


@torch.no_grad()
def encode(model, image):
    """[batch, 1, side, side, side] -> [batch, channels, grid, grid, grid]"""
    return model.image_encoder(image)


@torch.no_grad()
def decode(model, embedding, points=None, labels=None, mask=None, full_size=True):
    """All masks' low-resolution logits (the single one first), their scores, and the single one at the image's size."""
    sparse, dense = model.prompt_encoder(points, labels, mask)
    logits, scores = model.mask_decoder(embedding, model.prompt_encoder.dense_pe(), sparse, dense)
    full = F.interpolate(logits[:, :1], size=[model.config.image] * 3, mode="trilinear") if full_size else None
    return logits, scores, full


PROMPTS = {"one_point_no_mask": (1, False), "one_point_zero_mask": (1, True), "three_points_mask": (3, True), "mask_only": (0, True)}


@torch.no_grad()
def outputs(model, given):
    """Everything that a reference file records, for the inputs in `given`."""
    found = {"image_embedding": encode(model, given["image"]), "dense_pe": model.prompt_encoder.dense_pe()}
    for case in PROMPTS:
        prompt = [given.get(f"{case}.{part}") for part in ("points", "labels", "mask")]
        found[f"{case}.sparse"], found[f"{case}.dense"] = model.prompt_encoder(*prompt)
        logits, scores, full = decode(model, found["image_embedding"], *prompt)
        for kind, part in (("single", slice(0, 1)), ("multi", slice(1, None))):
            found[f"{case}.{kind}.low_res_logits"], found[f"{case}.{kind}.iou"] = logits[:, part], scores[:, part]
        found[f"{case}.single.full_res_logits"] = full[:, :, ::4, ::4, ::4]
    return found


def inputs(config, seed=1):
    """A random image and prompts, as in a reference file."""
    torch.manual_seed(seed)
    side, low = config.image, 4 * config.grid
    given = {"image": F.interpolate(torch.randn(1, 1, side // 4, side // 4, side // 4), [side] * 3, mode="trilinear")}
    mask = 2 * torch.randn(1, 1, low, low, low)
    for case, (points, with_mask) in PROMPTS.items():
        if points:
            given[f"{case}.points"] = torch.randint(0, side, (1, points, 3)).float()
            given[f"{case}.labels"] = torch.tensor([[1.0, 0.0, 1.0][:points]])
        if with_mask:
            given[f"{case}.mask"] = torch.zeros_like(mask) if "zero" in case else mask
    return given


def check(model, reference):
    found, worst = outputs(model, reference), 0.0
    for name, value in found.items():
        error = (value - reference[name]).abs().max().item() if value.numel() else 0.0
        worst = max(worst, error)
        print(f"{name:44} {error:.3e}")
    return worst


def measure(work, runs):
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return {"min_ms": min(times), "median_ms": statistics.median(times), "runs": runs}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["check", "make", "reference", "time"])
    arguments.add_argument("files", nargs="*")
    arguments.add_argument("--small", action="store_true")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--runs", type=int, default=3)
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    config = Config.small() if arguments.small else Config()
    if arguments.what == "check":
        weights, reference = arguments.files
        for only_real_queries in (False, True):
            worst = check(load(weights).only_real_queries(only_real_queries), load_file(reference))
            print(f"only_real_queries={only_real_queries}: largest error {worst:.3e}")
    elif arguments.what == "make":
        save(build(config), arguments.files[0])
    elif arguments.what == "reference":
        model, given = build(config), inputs(config)
        save(model, arguments.files[0])
        recorded = {name: value.clone().contiguous() for name, value in (given | outputs(model, given)).items()}
        save_file(recorded, arguments.files[0].replace(".safetensors", "_io.safetensors"))
    else:
        given = inputs(config)
        for only_real_queries in (False, True):
            model = build(config, only_real_queries=only_real_queries)
            found = measure(lambda: encode(model, given["image"]), arguments.runs)
            print(f"encode, only_real_queries={only_real_queries}:", found, flush=True)
        embedding = encode(model, given["image"])
        prompt = [given[f"one_point_zero_mask.{part}"] for part in ("points", "labels", "mask")]
        found = measure(lambda: decode(model, embedding, *prompt), 10 * arguments.runs)
        print("decode:", found)


if __name__ == "__main__":
    main()
