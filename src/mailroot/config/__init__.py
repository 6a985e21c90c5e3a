"""Assembles the settings that live beside their code from one TOML file, whole or not at all."""
