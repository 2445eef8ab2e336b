"""Small random models of transformers' families, written by ``save_pretrained`` as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

RATE = 16_000
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_CONVOLUTIONS = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
_WAVE = {**_SIZES, **_CONVOLUTIONS, "conv_dim": (16,) * 7}
_SQUEEZED = {**_SIZES, **_CONVOLUTIONS, "conv_dim": (16,) * 13}
_SWIN = {
    **{"patch_embeds_hidden_size": 8, "hidden_size": 32, "depths": [1, 1, 1], "num_attention_heads": [1, 2, 2]},
    **{"projection_dim": 12, "num_mel_bins": 64, "spec_size": 256, "patch_size": 4, "patch_stride": [4, 4]},
}

# By a name of their own: class of the model, class of the extractor, settings of both.
KINDS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "wav2vec2-group": ("Wav2Vec2", "Wav2Vec2", _WAVE, {"do_normalize": True}),
    "wav2vec2-layer": (
        "Wav2Vec2",
        "Wav2Vec2",
        {**_WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
        {"do_normalize": True, "return_attention_mask": True},
    ),
    "wav2vec2-adapter": (
        "Wav2Vec2",
        "Wav2Vec2",
        {**_WAVE, "add_adapter": True, "output_hidden_size": 24},
        {"do_normalize": True},
    ),
    "hubert": ("Hubert", "Wav2Vec2", _WAVE, {"do_normalize": False}),
    "wavlm": ("WavLM", "Wav2Vec2", _WAVE, {"do_normalize": False}),
    "data2vec-audio": ("Data2VecAudio", "Wav2Vec2", _WAVE, {"do_normalize": True}),
    "unispeech": ("UniSpeech", "Wav2Vec2", _WAVE, {"do_normalize": True}),
    "unispeech-sat": ("UniSpeechSat", "Wav2Vec2", _WAVE, {"do_normalize": True}),
    "sew": ("SEW", "Wav2Vec2", _SQUEEZED, {"do_normalize": True}),
    "sew-d": ("SEWD", "Wav2Vec2", _SQUEEZED, {"do_normalize": True}),
    "wav2vec2-conformer": ("Wav2Vec2Conformer", "Wav2Vec2", _WAVE, {"do_normalize": True}),
    "moonshine": (
        "Moonshine",
        "Wav2Vec2",
        {
            **{"hidden_size": 32, "intermediate_size": 48, "vocab_size": 60, "encoder_num_hidden_layers": 2},
            **{"decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2},
        },
        {"do_normalize": False},
    ),
    "wav2vec2-bert": ("Wav2Vec2Bert", "SeamlessM4T", _SIZES, {}),
    "ast": ("AST", "AST", {**_SIZES, "max_length": 128, "num_mel_bins": 64}, {"max_length": 128, "num_mel_bins": 64}),
    "whisper": (
        "Whisper",
        "Whisper",
        {
            **{"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48},
            **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 48, "vocab_size": 60},
            **{"max_source_positions": 100, "num_mel_bins": 80, "pad_token_id": 0, "bos_token_id": 1},
            **{"eos_token_id": 2, "decoder_start_token_id": 1},
        },
        {"chunk_length": 2},
    ),
    "clap": ("Clap", "Clap", _SWIN, {"max_length_s": 1, "truncation": "rand_trunc"}),
    "clap-fusion": ("Clap", "Clap", {**_SWIN, "enable_fusion": True}, {"max_length_s": 1, "truncation": "fusion"}),
}


def extractor(kind: str) -> Any:
    """The feature extractor of a kind."""
    import transformers

    _, name, _, settings = KINDS[kind]
    return getattr(transformers, f"{name}FeatureExtractor")(**settings)


def whole(kind: str) -> Any:
    """The model of a kind as its repositories hold it, larger than the encoder where they do; from a fixed seed."""
    import transformers

    name, _, sizes, _ = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "Clap":
            text = {**_SIZES, "vocab_size": 60, "max_position_embeddings": 60, "projection_dim": 12}
            config = transformers.ClapConfig(text_config=text, audio_config=sizes, projection_dim=12)
            model = transformers.ClapModel(config)
        else:
            config = getattr(transformers, f"{name}Config")(**sizes)
            model = getattr(transformers, f"{name}Model")(config)
        with torch.no_grad():  # so that what is initialised to zero matters too
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def tokenizer() -> Any:
    """A tokenizer of letters within the vocabulary of the small text encoders."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyzT.012 "]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def folder(kind: str, root: Path) -> Path:
    """Writes a model with the files of its extractor and tokenizer, as a folder of the kind's name below `root`."""
    path = root / kind
    if not path.exists():
        whole(kind).save_pretrained(path)
        extractor(kind).save_pretrained(path)
        if KINDS[kind][0] == "Clap":
            tokenizer().save_pretrained(path)
    return path
