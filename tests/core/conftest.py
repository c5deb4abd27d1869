from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does; pytest's own timeout bounds the whole test.
settings.register_profile("core", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("core")
