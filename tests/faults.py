"""The faults that `mutants.py` plants: what is wrong, where, and which tests must notice.

Each is a mistake that would give plausible numbers. `old` occurs once in its file; `tests` are node ids of the default
suite, as few and quick as will do. When the source changes, `test_mutants.py` says which entry no longer fits: bring
its text up to date, and check with ``python tests/mutants.py --only NAME`` that the fault is still noticed.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True)
class Fault:
    """One planted mistake.

    Parameters
    ----------
    name : str
    file : str
        Relative to the repository.
    old, new : str
        Exact text that occurs once, and what replaces it.
    what : str
        The mistake, in a line.
    tests : tuple of str
        Node ids.
    """

    name: str
    file: str
    old: str
    new: str
    what: str
    tests: tuple[str, ...]


_LISTENING = (
    Fault(
        "layer-off-by-one",
        "vpanalysis/models/_sites.py",
        "return cast(nn.ModuleList, family.find(model, path))[index]",
        "return cast(nn.ModuleList, family.find(model, path))[max(0, index - 1)]",
        "encoder[i] and text[j] name the layer before",
        ("tests/models/test_models_traps.py::test_last_hidden_state_is_never_the_last_layer",),
    ),
    Fault(
        "exposed-layer-off-by-one",
        "vpanalysis/models/pclm_config.py",
        'shift = 1 if self.layer_index_convention == "block_output_1based" else 0\n        return tuple',
        "shift = 0\n        return tuple",
        "the mixer reads the block behind each exposed layer",
        ("tests/models/test_models_pclm.py::test_hidden_states_k_of_hugging_face_is_exposed_layer_k",),
    ),
    Fault(
        "padding-pooled",
        "vpanalysis/capture/reducers.py",
        "return state.float().masked_fill(~valid[:, :, None], 0.0)",
        "return state.float()",
        "sums run over padding frames",
        ("tests/capture/test_reducers.py::test_only_valid_frames_count",),
    ),
    Fault(
        "segments-over-padded-frames",
        "vpanalysis/capture/reducers.py",
        "total = self._totals()[list(self.owner)].astype(np.float64)[:, None, None]",
        "total = np.full((len(self.owner), 1, 1), float(width))",
        "segments divide the padded width instead of the clip",
        ("tests/capture/test_reducers.py::test_only_valid_frames_count",),
    ),
    Fault(
        "windows-overlap",
        "vpanalysis/capture/reducers.py",
        "return np.asarray(before - before[first[list(self.owner)]], dtype=np.int64)",
        "return np.zeros(len(self.owner), dtype=np.int64)",
        "every window of a long clip is taken for its first seconds",
        ("tests/capture/test_reducers.py::test_windows_of_a_clip_are_one_sequence",),
    ),
    Fault(
        "half-precision-sums",
        "vpanalysis/capture/reducers.py",
        "        return state.float()\n    return state.float().masked_fill",
        "        return state\n    return state.float().masked_fill",
        "states are accumulated in half precision",
        ("tests/capture/test_reducers_precision.py::test_half_precision_states_have_the_mean_of_their_values",),
    ),
    Fault(
        "left-padding-taken-for-right",
        "vpanalysis/_passes.py",
        'Spans.per_item(lengths, padding="left")',
        'Spans.per_item(lengths, padding="right")',
        "text states are read as if prompts were padded on the right",
        ("tests/runs/test_runs.py::test_results_do_not_depend_on_batch_size",),
    ),
    Fault(
        "last-position-off-by-one",
        "vpanalysis/capture/reducers.py",
        'if spans.padding == "right" else width - 1 for',
        'if spans.padding == "right" else width - 2 for',
        "the text state before the answer position is kept",
        ("tests/capture/test_reducers.py::test_only_valid_frames_count",),
    ),
    Fault(
        "hook-left-behind",
        "vpanalysis/capture/recorder.py",
        ") -> None:\n        self._remove()\n",
        ") -> None:\n        if error is None:\n            self._remove()\n",
        "hooks stay on the model when the forward raises",
        ("tests/capture/test_recorder.py::test_hooks_are_gone_after_the_block_and_after_exceptions",),
    ),
    Fault(
        "hook-changes-the-output",
        "vpanalysis/capture/reducers.py",
        "return state.float().masked_fill(~valid",
        "return state.float().masked_fill_(~valid",
        "the hook writes into the state that the model goes on with",
        ("tests/capture/test_recorder.py::test_outputs_are_bit_equal_with_hooks_on_and_off",),
    ),
    Fault(
        "audio-not-resampled",
        "vpanalysis/benchmark/audio.py",
        "if rate != SAMPLE_RATE:",
        "if rate > 10 * SAMPLE_RATE:",
        "clips of another rate are played at the wrong speed",
        ("tests/benchmark/test_benchmark_audio.py::test_any_rate_and_channel_count",),
    ),
    Fault(
        "left-channel-only",
        "vpanalysis/benchmark/audio.py",
        "samples.mean(axis=1, dtype=np.float32)",
        "samples[:, 0]",
        "of a stereo clip only the left channel is heard",
        ("tests/benchmark/test_benchmark_audio.py::test_channels_are_averaged_and_loudness_is_kept",),
    ),
)

_MIXING = (
    Fault(
        "gate-order-reversed",
        "vpanalysis/models/mixer.py",
        "weights.unbind(dim=1)",
        "weights.flip(1).unbind(dim=1)",
        "each stream gets the weight of the opposite one",
        ("tests/models/test_models_pclm.py::test_mixture_is_the_weighted_sum_of_projected_streams",),
    ),
    Fault(
        "gate-outputs-not-rolled",
        "vpanalysis/models/mixer.py",
        "logits = logits.roll(-1, dims=-1)",
        "logits = logits.roll(1, dims=-1)",
        "a checkpoint whose gate names the final layer first gets its weights in the wrong places",
        ("tests/models/test_models_pclm.py::test_gate_order_moves_the_first_output_last",),
    ),
    Fault(
        "softmax-over-the-batch",
        "vpanalysis/models/mixer.py",
        "return torch.softmax(logits, dim=-1)",
        "return torch.softmax(logits, dim=0)",
        "weights sum to one over the items instead of the streams",
        ("tests/models/test_models_pclm.py::test_gate_weights_do_not_depend_on_padding",),
    ),
    Fault(
        "mixed-before-projection",
        "vpanalysis/models/pclm.py",
        "return cast(Tensor, self.pclm(streams, weights))",
        "return cast(Tensor, self.multi_modal_projector(self.pclm(list(states), weights)))",
        "encoder states are mixed and projected once, not projected and mixed",
        ("tests/models/test_models_pclm.py::test_mixture_is_the_weighted_sum_of_projected_streams",),
    ),
    Fault(
        "half-precision-mixture",
        "vpanalysis/models/mixer.py",
        "mixed = mixed + stream.float() * weight[:, None, None]",
        "mixed = mixed + stream * weight[:, None, None].to(stream.dtype)",
        "streams are summed in half precision",
        ("tests/models/test_models_precision.py::test_streams_are_summed_in_float32",),
    ),
    Fault(
        "gate-reads-padding",
        "vpanalysis/models/mixer.py",
        "return (states * valid).sum(1) / valid.sum(1).clamp(min=1)",
        "return states.mean(1)",
        "the prompt's vector is a mean over padding as well",
        ("tests/models/test_models_pclm.py::test_gate_weights_do_not_depend_on_padding",),
    ),
    Fault(
        "stream-not-normed",
        "vpanalysis/models/mixer.py",
        'return cast(Tensor, tower.layer_norm(pooled)) if mid_pool == "avg_norm" else pooled',
        "return pooled",
        "exposed layers reach their projectors without the tower's norm",
        ("tests/models/test_models_pclm.py::test_the_last_layer_exposed_equals_the_tower",),
    ),
    Fault(
        "answer-position-off-by-one",
        "vpanalysis/models/facade.py",
        "logits_to_keep=1).logits[:, -1].float()",
        "logits_to_keep=2).logits[:, 0].float()",
        "logits are read one position early, before the answer prefix",
        ("tests/models/test_models_facade.py::test_forward_is_the_models_own_forward",),
    ),
    Fault(
        "wrong-letter-position",
        "vpanalysis/models/facade.py",
        "for letter in item.letters])",
        "for letter in sorted(item.letters)])",
        "options are scored in the order of the alphabet, not in that of the item",
        ("tests/models/test_models_letters.py::test_scores_follow_the_options_and_not_the_alphabet",),
    ),
    Fault(
        "split-part-left-random",
        "vpanalysis/models/loading.py",
        '("missing_keys", "the checkpoint is incomplete',
        '("missing_key", "the checkpoint is incomplete',
        "weights that a checkpoint lacks are left at random numbers without a word",
        (
            "tests/models/test_models_split.py::test_broken_checkpoints_say_what_is_missing",
            "tests/models/test_models_loading.py::test_incomplete_hugging_face_folder_is_refused",
        ),
    ),
)

_RECORDING = (
    Fault(
        "cache-without-the-encoder",
        "vpanalysis/capture/audio_cache.py",
        'f"{_FORMAT}|{encoder_sha}|{dtype}"',
        'f"{_FORMAT}|{dtype}"',
        "one encoder is served what another made of the clip",
        ("tests/capture/test_audio_cache.py::test_another_encoder_dtype_or_clip_is_a_miss",),
    ),
    Fault(
        "cache-checksum-not-verified",
        "vpanalysis/capture/audio_cache.py",
        ' or facts["crc32"] != _checksum(memoryview(data)[8 + length :], header)',
        "",
        "a damaged file of the cache is used",
        ("tests/capture/test_audio_cache.py::test_any_damage_is_a_miss_never_a_wrong_clip",),
    ),
    Fault(
        "store-checksum-not-verified",
        "vpanalysis/capture/store.py",
        "codecs = [ZstdCodec(level=1), Crc32cCodec()] if ragged else [Crc32cCodec()]",
        "codecs = [ZstdCodec(level=1)] if ragged else None",
        "chunks carry no checksum, and a flipped bit is a value",
        ("tests/capture/test_store.py::test_a_flipped_bit_is_found_and_named",),
    ),
    Fault(
        "block-skipped-on-resume",
        "vpanalysis/_writing.py",
        "if not _is_whole(folder, store, number):",
        "if not _is_whole(folder, store, number) and not block_path(folder, number).is_file():",
        "a block that was killed just before its marker is taken for done",
        ("tests/runs/test_resume.py::test_stopped_between_any_two_steps_of_a_block[0-marker]",),
    ),
    Fault(
        "marker-before-the-data",
        "vpanalysis/_writing.py",
        "            store.write(number, states)\n",
        '            _blocks.write_marker(folder, number, {"items": len(items)})\n'
        "            store.write(number, states)\n",
        "a block is declared done before anything of it is on disk",
        ("tests/runs/test_resume.py::test_stopped_between_any_two_steps_of_a_block[0-store]",),
    ),
    Fault(
        "second-writer-allowed",
        "vpanalysis/_blocks.py",
        "        except (BlockingIOError, PermissionError):\n            return False\n",
        "        except (BlockingIOError, PermissionError):\n            return True\n",
        "two processes write one Run",
        ("tests/runs/test_resume.py::test_the_lock_opens_when_the_writer_leaves",),
    ),
    Fault(
        "resumed-with-another-model",
        "vpanalysis/_manifest.py",
        '    "model.weights": "model weights",\n',
        "",
        "a Run is finished by other weights than those that began it",
        ("tests/runs/test_runs.py::test_going_on_with_something_else_is_refused_by_name",),
    ),
    Fault(
        "cache-hit-taken-for-all",
        "vpanalysis/_passes.py",
        "if all(clip is not None for clip in cached):",
        "if any(clip is not None for clip in cached):\n"
        "                cached = [clip or next(filter(None, cached)) for clip in cached]",
        "clips that are not in the cache get the states of their neighbours",
        ("tests/runs/test_resume.py::test_stopped_between_any_two_steps_of_a_block[0-cache]",),
    ),
    Fault(
        "prompt-hash-without-the-prefix",
        "vpanalysis/benchmark/prompts.py",
        'if k != "name"}',
        'if k not in ("name", "answer_prefix")}',
        "two prompts that differ in the answer prefix have one hash",
        ("tests/benchmark/test_benchmark_prompts.py::test_sha_covers_everything_but_the_name",),
    ),
)

_SCORING = (
    Fault(
        "truth-and-claim-swapped",
        "vpanalysis/_outcomes.py",
        '    elif picked == truth:\n        outcome = "listened"\n    else:\n'
        '        outcome = "read" if picked in claims else "other"\n',
        '    elif picked in said:\n        outcome = "listened"\n    else:\n'
        '        outcome = "read" if picked == truth else "other"\n',
        "who believes the words counts as a listener",
        ("tests/test_scoring.py::test_a_perfect_listener_has_one",),
    ),
    Fault(
        "hearing-m-and-r-swapped",
        "vpanalysis/_hearing.py",
        "return 1 / self.m / scale, 1 / self.r / scale, -1 / scale",
        "return 1 / self.r / scale, 1 / self.m / scale, -1 / scale",
        "conflict accuracy is weighed by the chance on congruent items",
        ("tests/test_scoring.py::test_hearing_index_by_hand",),
    ),
    Fault(
        "first-claim-only",
        "vpanalysis/_measures.py",
        '"ala": _share("read", conflict)',
        '"ala": _share("read_first", conflict)',
        "ALA with a list of labels counts the first label only",
        ("tests/test_scoring.py::test_a_second_claim_counts_for_the_list_only",),
    ),
    Fault(
        "failed-items-dropped",
        "vpanalysis/_measures.py",
        "here = np.isin(task, np.array(tasks, dtype=object))",
        'here = np.isin(task, np.array(tasks, dtype=object)) & (items.hits["failed"] == 0)',
        "failed items leave the denominator",
        ("tests/test_scoring.py::test_failed_and_unparsed_items_stay_in_the_denominator",),
    ),
    Fault(
        "clusters-ignored",
        "vpanalysis/stats.py",
        "n = _effective(y, w, codes, count, p, kish)",
        "n = kish",
        "intervals take all clips of a speaker for independent",
        ("tests/test_stats.py::test_items_that_stand_and_fall_together_count_once",),
    ),
    Fault(
        "narrower-grouping-kept",
        "vpanalysis/stats.py",
        "return max(found, key=width)",
        "return min(found, key=width)",
        "of speaker and script the one that flatters is reported",
        ("tests/test_stats.py::test_the_wider_of_two_groupings_is_kept_and_named",),
    ),
    Fault(
        "signs-flipped-by-item",
        "vpanalysis/stats.py",
        "        codes, count = _codes(labels)\n        sums = np.bincount(codes, weights=d",
        "        codes, count = _codes(np.arange(len(d)))\n        sums = np.bincount(codes, weights=d",
        "the permutation test flips clips instead of speakers",
        ("tests/test_stats.py::test_flipping_items_instead_of_clusters_would_be_wrong",),
    ),
    Fault(
        "false-discovery-not-monotone",
        "vpanalysis/stats.py",
        "np.minimum.accumulate(scaled[::-1])[::-1]",
        "scaled",
        "a larger p-value may get a smaller adjusted one",
        ("tests/test_stats.py::test_false_discovery_rate_is_that_of_statsmodels",),
    ),
    Fault(
        "parser-guesses",
        "vpanalysis/benchmark/parsing.py",
        "    letter = next(iter(found)) if len(found) == 1 else None\n",
        "    found, groups = set(sorted(found)[:1]), set(sorted(groups)[:1])\n"
        "    letter = next(iter(found)) if len(found) == 1 else None\n",
        "of two options in a reply one is picked",
        ("tests/benchmark/test_benchmark_parsing.py::test_refused",),
    ),
    Fault(
        "contradiction-believed",
        "vpanalysis/benchmark/parsing.py",
        "agrees = picked in group",
        "agrees = True",
        "a letter that contradicts its text is believed",
        ("tests/benchmark/test_benchmark_parsing.py::test_both_sides_of_a_contradiction_are_reported",),
    ),
)

_PROBING = (
    Fault(
        "twin-across-folds",
        "vpanalysis/probes/splits.py",
        'for name, use in ((column, named), ("cell", twins)):',
        "for name, use in ((column, named),):",
        "twins of a cell stand on both sides of a fold",
        ("tests/probes/test_splits.py::test_twins_of_a_cell_pull_their_scripts_into_one_group",),
    ),
    Fault(
        "items-shuffled",
        "vpanalysis/probes/splits.py",
        "splitter.split(np.zeros((len(labels), 1)), labels, groups)",
        "splitter.split(np.zeros((len(labels), 1)), labels, np.arange(len(labels)))",
        "folds are made of clips, and a speaker is on both sides",
        ("tests/probes/test_splits.py::test_no_group_and_no_cell_is_on_both_sides",),
    ),
    Fault(
        "scaled-on-the-test-set",
        "vpanalysis/probes/estimator.py",
        "StandardScaler().fit(np.asarray(train, dtype=np.float64))",
        "StandardScaler().fit(np.concatenate([train, test]).astype(np.float64))",
        "the probe's scaling has seen the test items",
        ("tests/probes/test_probe_estimator.py::test_scaling_is_learnt_from_the_training_items_alone",),
    ),
    Fault(
        "claim-probed-as-truth",
        "vpanalysis/probes/targets.py",
        'if target == "truth":\n        return table["truth"]\n',
        'if target == "truth":\n        return _words(table)\n',
        "the curve of the voice is that of the words",
        ("tests/probes/test_probe_layers.py::test_the_truth_is_found_where_it_was_planted_and_nowhere_else",),
    ),
    Fault(
        "words-not-balanced",
        "vpanalysis/probes/splits.py",
        "weights: FloatArray = wanted[t, w] / joint[t, w]",
        "weights: FloatArray = np.ones(len(t))",
        "a probe of the words alone beats chance on the voice",
        ("tests/probes/test_splits.py::test_four_labels_need_three_conflict_items_to_one_congruent",),
    ),
)

_MINI = (
    Fault(
        "truth-always-first",
        "vpanalysis/benchmark/mini/cells.py",
        "options=tuple(options[k] for k in own.permutation(len(options))),",
        "options=tuple(sorted(options, key=lambda option: option != truth)),",
        "the letter gives the truth away",
        ("tests/benchmark/test_mini_cells.py::test_truth_and_contradiction_are_balanced",),
    ),
    Fault(
        "condition-in-the-options",
        "vpanalysis/benchmark/mini/items.py",
        "choices=cell.options,",
        "choices=cell.options if words != cell.contradiction else cell.options[::-1],",
        "the order of the options tells conflict from congruent twins",
        ("tests/benchmark/test_mini_items.py::test_twins_share_the_question_and_the_options",),
    ),
    Fault(
        "options-favour-the-claim",
        "vpanalysis/benchmark/mini/cells.py",
        'return [o for o in ORDERS if o.split("-")[0] in (truth.split("-")[0], contradiction)]',
        'return [truth, *(o for o in ORDERS if o.split("-")[0] == contradiction),'
        ' *(o for o in ORDERS if o.split("-")[0] not in (truth.split("-")[0], contradiction))][:4]',
        "only the claimed level is offered in both orders, so that the options tell the claim from the truth",
        ("tests/benchmark/test_mini_cells.py::test_pattern_options_favour_neither_twin",),
    ),
    Fault(
        "neutral-twin-with-a-claim",
        "vpanalysis/benchmark/mini/rendering.py",
        "text = cell.frame.neutral if words is None else cell.frame.claiming(words, cell.synonym)",
        "text = cell.frame.claiming(words or cell.true_label, cell.synonym)",
        "the neutral twin names the truth",
        ("tests/benchmark/test_mini_items.py::test_words_claim_what_the_item_says_they_do",),
    ),
    Fault(
        "voice-swap-not-aligned",
        "vpanalysis/benchmark/mini/rendering.py",
        "segment = Segment(text, person.variant(), rate=cell.rate)",
        "segment = Segment(text, person.variant(), rate=cell.rate + 25 * (voice != cell.truth))",
        "the voice-swap twin speaks faster, so that frames no longer correspond",
        ("tests/benchmark/test_mini_items.py::test_voice_swap_changes_the_voice_alone",),
    ),
    Fault(
        "speaker-in-two-splits",
        "vpanalysis/benchmark/mini/voices.py",
        'rng = rng_for("speaker", split, index)',
        'rng = rng_for("speaker", index)',
        "test speakers are heard in training, under other names",
        ("tests/benchmark/test_mini_cells.py::test_splits_share_no_speaker",),
    ),
    Fault(
        "wording-in-two-splits",
        "vpanalysis/benchmark/mini/wordings.py",
        "fresh = [[text for text in pool if text not in trained] for pool in _pools(task)]",
        "fresh = [list(pool) for pool in _pools(task)]",
        "a test sentence of one task is read in training for another",
        ("tests/benchmark/test_mini_cells.py::test_what_any_task_says_in_training_no_task_says_in_another_split",),
    ),
)

FAULTS: tuple[Fault, ...] = (*_LISTENING, *_MIXING, *_RECORDING, *_SCORING, *_PROBING, *_MINI)
"""All of them, in the order of the table."""
