"""Tool-call dialects by name; each is imported only when a model speaks it."""

DIALECTS = {
    "command_r": "hearthd.prompt.toolcalls.command_r:CommandR",
    "deepseek": "hearthd.prompt.toolcalls.deepseek:DeepSeek",
    "firefunction": "hearthd.prompt.toolcalls.firefunction:FireFunction",
    "granite": "hearthd.prompt.toolcalls.granite:Granite",
    "hermes": "hearthd.prompt.toolcalls.hermes:Hermes",
    "llama3": "hearthd.prompt.toolcalls.llama3:Llama3",
    "mistral": "hearthd.prompt.toolcalls.mistral:Mistral",
    "nemotron": "hearthd.prompt.toolcalls.nemotron:Nemotron",
    "phi4": "hearthd.prompt.toolcalls.phi4:Phi4",
    "qwen_xml": "hearthd.prompt.toolcalls.qwen_xml:QwenXml",
    "tagged": "hearthd.prompt.toolcalls.tagged:Tagged",
    "xlam": "hearthd.prompt.toolcalls.xlam:XLam",
}
