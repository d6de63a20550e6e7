"""Probes of scenes as measured, on fewer or shuffled bands, by other sensors, in noise and other light."""
