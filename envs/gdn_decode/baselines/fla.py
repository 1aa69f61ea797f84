"""flash-linear-attention's recurrent kernel (Triton). It takes the decay's logarithm, and gives a new state, which is copied back."""

import torch
from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule


def gated_delta_rule_decode(q, k, v, state, A_log, a, dt_bias, b, scale, output, use_qk_l2norm):
    if q.shape[0]:
        decay = -A_log.exp() * torch.nn.functional.softplus(a.float() + dt_bias.float())
        result, new = fused_recurrent_gated_delta_rule(
            q, k, v, g=decay, beta=b.sigmoid(), scale=scale, initial_state=state, output_final_state=True,
            use_qk_l2norm_in_kernel=use_qk_l2norm,
        )
        output.copy_(result)
        state.copy_(new)
