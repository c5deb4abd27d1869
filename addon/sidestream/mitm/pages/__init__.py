"""What mitmweb's pages and mitmproxy's console show of LLM traffic. Where there is no view, none of it is there."""
