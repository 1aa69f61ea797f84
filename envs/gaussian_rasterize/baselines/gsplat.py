"""gsplat's own kernel."""

from gsplat import rasterize_to_pixels


def gaussian_rasterize(
    render_colors, render_alphas, means2d, conics, colors, opacities, isect_offsets, flatten_ids, image_width, image_height
):
    if means2d.shape[0] == 0:
        return
    image, alphas = rasterize_to_pixels(
        means2d, conics, colors, opacities, image_width, image_height, 16, isect_offsets, flatten_ids
    )
    render_colors.copy_(image)
    render_alphas.copy_(alphas)
