"""The library in other people's training loops: one module per trainer, all of them thin callers of `grader.Grader`.

Nothing here is imported by the rest of the library. `verifiers` and `openenv` extend classes of their packages, which must be installed to
import them; the other modules import no trainer before it is used.
"""
