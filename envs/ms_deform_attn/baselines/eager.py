"""One grid_sample a level, as transformers does it; in float32, as under autocast, where the locations are wider than the values.

`plan` reads the shapes of the maps once, so that the calls need no host synchronisation.
"""

import torch


def plan(out, value, value_spatial_shapes, sampling_locations, attention_weights, num_points_list):
    return value_spatial_shapes.tolist(), num_points_list.tolist()


def ms_deform_attn(out, value, value_spatial_shapes, sampling_locations, attention_weights, num_points_list, plan=None):
    shapes, points = plan or (value_spatial_shapes.tolist(), num_points_list.tolist())
    batch, _, heads, _ = attention_weights.shape
    if not batch:
        return
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).float().split([high * wide for high, wide in shapes], dim=2)
    grids = sampling_locations.mul(2).sub(1).transpose(1, 2).flatten(0, 1).split(points, dim=2)
    sampled = [
        torch.nn.functional.grid_sample(level.unflatten(2, shape), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for level, shape, grid in zip(maps, shapes, grids, strict=True)
    ]
    weights = attention_weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)
    result = (torch.cat(sampled, dim=-1) * weights).sum(-1)
    out.copy_(result.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2))
