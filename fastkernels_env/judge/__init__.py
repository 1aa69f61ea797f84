"""The judge: owns seeds, inputs, oracle, baselines, clocks and verdict. Never imports a submission."""
