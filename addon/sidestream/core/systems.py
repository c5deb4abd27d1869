"""
Whose API a provider's is, told from its address.

Source: OpenTelemetry semantic conventions, GenAI attributes, `gen_ai.provider.name`; the
convention allows other words for systems that it does not list.
"""

_SYSTEMS = {
    "openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "anthropic.com": "anthropic",
    "deepseek.com": "deepseek",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "groq.com": "groq",
    "mistral.ai": "mistral_ai",
    "perplexity.ai": "perplexity",
    "cohere.com": "cohere",
    "cohere.ai": "cohere",
    "x.ai": "x_ai",
    "aliyuncs.com": "dashscope",
    "moonshot.cn": "moonshot_ai",
    "moonshot.ai": "moonshot_ai",
    "bigmodel.cn": "zhipu_ai",
    "volces.com": "volcengine",
    "openrouter.ai": "openrouter",
    "together.xyz": "together_ai",
    "siliconflow.cn": "siliconflow",
}
"""Domain → system."""

OTHER_SYSTEM = "_OTHER"
"""What OpenTelemetry says for what has no word."""


def system_of(host: str) -> str:
    """Return the system at the provider's `host`, by the longest domain that is known."""
    labels = host.lower().rstrip(".").split(".")
    domains = (".".join(labels[start:]) for start in range(len(labels)))
    return next((_SYSTEMS[domain] for domain in domains if domain in _SYSTEMS), OTHER_SYSTEM)
