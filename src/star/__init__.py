"""STAR: synthesis of tailored architectures."""
