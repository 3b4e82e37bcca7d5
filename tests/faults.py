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
        "vpanalysis/capture/_pooling.py",
        "else weights[r : r + 1], slice(start, stop))",
        "else weights[r : r + 1], slice(None))",
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
        "vpanalysis/capture/_pooling.py",
        "return chosen.sum(dim=1, keepdim=True, dtype=torch.float32)",
        "return chosen.sum(dim=1, keepdim=True).float()",
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
        "vpanalysis/capture/_pooling.py",
        "places[item] = (row, stop - 1)",
        "places[item] = (row, stop - 2)",
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
        "vpanalysis/capture/_pooling.py",
        "chosen = state[:, which]",
        "chosen = state[:, which].add_(1.0)",
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
        "vpanalysis/models/pclm_mixin.py",
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
        "qwen2-audio-hears-silence",
        "vpanalysis/models/pclm_qwen2_audio.py",
        "lengths = (feature_attention_mask.sum(-1) - 1) // 2 + 1",
        "lengths = (feature_attention_mask.sum(-1) * 0 + feature_attention_mask.shape[-1] - 1) // 2 + 1",
        "Qwen2-Audio's encoder attends to the silence behind a clip",
        ("tests/models/test_models_pclm_qwen2_audio.py::test_clamped_to_the_final_stream_is_stock_bit_for_bit",),
    ),
    Fault(
        "pooler-forgotten",
        "vpanalysis/models/mixer.py",
        "return cast(Tensor, output.pooler_output)",
        "return cast(Tensor, output.last_hidden_state[:, 0])",
        "a gate trained behind BERT's pooler reads the first token as it is",
        ("tests/models/test_models_pclm_pooler.py::test_the_pooler_is_tanh_of_a_dense_layer_on_the_first_token",),
    ),
    Fault(
        "first-positions-kept",
        "vpanalysis/models/pclm_qwen2_audio.py",
        "slice(-logits_to_keep, None)",
        "slice(None, logits_to_keep)",
        "logits_to_keep gives the first positions of the prompt instead of the last",
        ("tests/models/test_models_pclm_qwen2_audio.py::test_logits_of_the_asked_positions_only",),
    ),
    Fault(
        "answer-position-off-by-one",
        "vpanalysis/models/facade.py",
        "return self._run(batch, encoded, 1)[:, -1].float()",
        "return self._run(batch, encoded, 2)[:, 0].float()",
        "logits are read one position early, before the answer prefix",
        ("tests/models/test_models_facade.py::test_forward_is_the_models_own_forward",),
    ),
    Fault(
        "trimmed-too-short",
        "vpanalysis/models/frontends/af3.py",
        "return min(-(-(valid + reach) // BUCKET) * BUCKET, self.window_mels)",
        "return min(valid, self.window_mels)",
        "silence is cut where the last convolution still looks",
        (
            "tests/models/test_models_trim.py::test_trimmed_states_are_those_of_the_padded_path",
            "tests/models/test_models_trim.py::test_trimmed_features_are_the_beginning_of_the_stock_ones",
        ),
    ),
    Fault(
        "positions-stay-sliced",
        "vpanalysis/models/frontends/af3.py",
        "        yield\n    finally:\n        tower._modules[name] = table",
        "        yield\n    finally:\n        pass",
        "the tower keeps the short table of positions of the last trimmed batch",
        ("tests/models/test_models_trim.py::test_the_table_of_positions_is_back_after_an_error",),
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
            "tests/models/checkpoint/test_checkpoint_loading.py"
            "::test_stock_classes_are_read_lazily_and_their_gaps_named",
        ),
    ),
)

_CHECKPOINTS = (
    Fault(
        "missing-tensors-not-missed",
        "vpanalysis/models/checkpoint/modules.py",
        "missing = sorted(name for name in inner if name not in there)",
        "missing = sorted(name for name in () if name not in there)",
        "a part of the checkpoint that is not whole is taken for whole",
        ("tests/models/checkpoint/test_checkpoint_broken.py::test_a_tensor_that_is_missing",),
    ),
    Fault(
        "surplus-tensors-ignored",
        "vpanalysis/models/checkpoint/assignment.py",
        "surplus = [record.key for record in board.free]",
        "surplus = []",
        "what the model has no place for is dropped without a word",
        ("tests/models/checkpoint/test_checkpoint_broken.py::test_a_tensor_too_many",),
    ),
    Fault(
        "truncated-file-accepted",
        "vpanalysis/models/checkpoint/headers.py",
        "if 8 + length + end != size:",
        "if 8 + length + end < 0:",
        "a file that was cut off is found while it is read, not before",
        ("tests/models/checkpoint/test_checkpoint_headers.py::test_a_file_of_any_other_length_is_refused",),
    ),
    Fault(
        "projectors-in-the-order-of-files",
        "vpanalysis/models/checkpoint/projectors.py",
        "sorted(way, key=way.__getitem__)",
        "sorted(way)",
        "counted projectors are given to layers as they come",
        ("tests/models/checkpoint/test_checkpoint_parts.py::test_numbers_that_count_are_ascending_by_assumption",),
    ),
    Fault(
        "gate-layers-in-the-order-of-files",
        "vpanalysis/models/checkpoint/gate.py",
        "for i in sorted(ways[0], key=lambda i: ways[0][i]))",
        "for i in sorted(ways[0]))",
        "layers of the gate whose shapes leave their order open are taken as they come",
        ("tests/models/checkpoint/test_checkpoint_parts.py::test_gates_by_shape_and_by_number",),
    ),
    Fault(
        "norms-of-a-block-exchanged",
        "vpanalysis/models/checkpoint/bert_tree.py",
        "return max(near, key=lambda key: near[key])",
        "return min(near, key=lambda key: near[key])",
        "the norm behind a BERT block's attention is loaded as the one behind its feed-forward layers",
        ("tests/models/checkpoint/test_checkpoint_bert_tree.py::test_trees_that_leave_one_reading",),
    ),
    Fault(
        "assumptions-become-facts",
        "vpanalysis/models/checkpoint/conversion.py",
        "return {UNSETTLED: sorted(subjects)} if subjects else {}",
        "return {}",
        "a converted checkpoint states as known what had to be assumed",
        ("tests/models/checkpoint/test_conversion.py::test_a_release_becomes_a_folder_that_keeps_its_assumptions",),
    ),
    Fault(
        "half-a-conversion-left",
        "vpanalysis/models/checkpoint/conversion.py",
        "        shutil.rmtree(beside, ignore_errors=True)",
        "        pass",
        "a conversion that fails leaves half a checkpoint behind",
        ("tests/models/checkpoint/test_conversion.py::test_a_failure_leaves_nothing_behind",),
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
        "return {b for b in _blocks.finished_blocks(folder, count) if b in stored and",
        "return {b for b in range(count) if b in stored and",
        "a block that was killed just before its marker is taken for done",
        ("tests/runs/test_resume.py::test_stopped_between_any_two_steps_of_a_block[0-marker]",),
    ),
    Fault(
        "marker-before-the-data",
        "vpanalysis/_worker.py",
        "        store.write(number, states)\n",
        '        _blocks.write_marker(folder, number, {"items": len(items)})\n        store.write(number, states)\n',
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
        "        n = effective(p)\n",
        "        n = kish\n",
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
        "vpanalysis/probes/solvers/_scaling.py",
        "        for row, (train, _) in zip(member, folds, strict=True):\n            row[train] = 1.0\n",
        "        member += 1.0\n",
        "the probe's scaling has seen the test items",
        ("tests/probes/test_probe_estimator.py::test_scaling_is_learnt_from_the_training_items_alone",),
    ),
    Fault(
        "twins-shuffled-apart",
        "vpanalysis/probes/shuffles.py",
        "twins[groups[item], cells[item]].append(int(item))",
        "twins[groups[item], item].append(int(item))",
        "shuffles part the twins of a cell, which no shuffle of the benchmark could",
        ("tests/probes/test_probe_shuffles.py::test_whole_cells_move_and_every_label_is_kept",),
    ),
    Fault(
        "best-site-not-adjusted",
        "vpanalysis/probes/shuffles.py",
        "best = shuffled.max(axis=0)",
        "best = shuffled.mean(axis=0)",
        "the best of many sites is significant by luck",
        ("tests/probes/test_probe_shuffles.py::test_p_values_count_and_the_best_site_answers_for_all",),
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

_FAMILIES = (
    Fault(
        "silence-heard-in-audio-tokens",
        "vpanalysis/models/frontends/voxtral.py",
        "heard=tuple(tuple(-(-n // self.folded) for n in clip) for clip in frames),",
        "heard=tuple((whole // self.folded,) * len(clip) for clip in frames),",
        "means over Voxtral's audio tokens take in the silence behind the clip",
        ("tests/models/test_models_family_voxtral.py::test_layout",),
    ),
    Fault(
        "only-the-clip-is-handed-on",
        "vpanalysis/models/frontends/voxtral.py",
        "kept=tuple((whole,) * len(clip) for clip in frames),",
        "kept=frames,",
        "a replayed Voxtral is given zeros for the silence behind the clip",
        ("tests/models/test_models_family_voxtral.py::test_layout",),
    ),
    Fault(
        "projected-tower",
        "vpanalysis/models/_sites.py",
        "tower = family.tower_output or family.tower",
        "tower = family.tower",
        "the site 'tower' of Qwen-Omni is the projector's output",
        ("tests/models/test_models_family_omni.py::test_tower_and_projector",),
    ),
    Fault(
        "seconds-of-twelve-tokens",
        "vpanalysis/models/frontends/omni.py",
        "return self._OF_CHUNK * chunks + self.family.encoder_frames(rest)",
        "return (self._OF_CHUNK - 1) * chunks + self.family.encoder_frames(rest)",
        "a full second of Qwen3-Omni counts twelve audio tokens",
        ("tests/models/test_models_family_omni.py::test_counts_are_the_models",),
    ),
    Fault(
        "clip-without-marks",
        "vpanalysis/models/frontends/music_flamingo.py",
        'f"{self.processor.audio_bos_token}{run}{self.processor.audio_eos_token}"',
        "run",
        "Music Flamingo's prompts lack the marks around a clip",
        ("tests/models/test_models_family_musicflamingo.py::test_the_prompt_has_marks_around_the_clip",),
    ),
    Fault(
        "window-without-a-token",
        "vpanalysis/models/frontends/music_flamingo.py",
        "return samples - rest",
        "return samples",
        "a window without audio tokens gives the next clip of a batch the times of another window",
        ("tests/models/test_models_family_musicflamingo.py::test_a_last_window_without_a_token_is_left_out",),
    ),
    Fault(
        "unmasked-tower",
        "vpanalysis/models/frontends/qwen2_audio.py",
        "mask = tower_mask(self.tower, inputs[self.mask_name])",
        "mask = None",
        "Qwen2-Audio's encoder attends to the silence behind the clip",
        ("tests/models/test_models_family_qwen2_audio.py::test_silence_is_masked_and_kept",),
    ),
)

_CALIBRATING = (
    Fault(
        "choosing-items-judge",
        "vpanalysis/_calibration_evidence.py",
        "    judging = ~chooses\n",
        "    judging = chooses\n",
        "the items that chose the best reading also judge it",
        ("tests/test_calibration_evidence.py::test_only_the_judging_items_judge",),
    ),
    Fault(
        "one-step-suffices",
        "vpanalysis/_calibration_evidence.py",
        "            if best != near:\n",
        "            if False:\n",
        "two wrong conventions that make up for each other are both decided",
        ("tests/test_calibration_evidence.py::test_two_wrongs_that_make_a_right_decide_nothing",),
    ),
    Fault(
        "deaf-model-decides",
        "vpanalysis/_calibration_evidence.py",
        "elif not heard.low > guessed:",
        "elif False:",
        "a model that hears nothing decides how it is read",
        ("tests/test_calibration_evidence.py::test_a_model_no_better_than_chance_decides_nothing",),
    ),
    Fault(
        "streams-pooled-the-other-way",
        "vpanalysis/_calibration_scores.py",
        "                if pool == how:\n",
        "                if pool != how:\n",
        "a reading's layers are pooled as another reading says",
        ("tests/models/test_models_readings.py::test_every_reading_is_the_model_built_that_way",),
    ),
    Fault(
        "calibrated-model-stays-misread",
        "vpanalysis/models/_live.py",
        "    finally:\n        set_conventions(llm, before)",
        "    finally:\n        del before",
        "a model keeps the conventions of the last reading that was tried",
        ("tests/models/test_models_readings.py::test_the_model_is_as_before",),
    ),
    Fault(
        "anybodys-calibration",
        "vpanalysis/models/conventions.py",
        'if record["fingerprint"] != own:',
        "if False:",
        "a checkpoint is read as another one was calibrated",
        ("tests/models/test_models_conventions.py::test_a_file_of_another_checkpoint_is_never_used",),
    ),
    Fault(
        "stated-convention-overridden",
        "vpanalysis/models/conventions.py",
        "        found = fields.pop(name)\n",
        "        found = fields[name]\n",
        "a calibration overrides what config.json states",
        ("tests/models/test_models_conventions.py::test_what_is_decided_is_loaded_and_what_is_stated_stays",),
    ),
    Fault(
        "calibration-items-scored",
        "vpanalysis/_calibrated.py",
        "return table[~used].reset_index(drop=True), note",
        "return table, note",
        "a score contains the items that chose how the model is read",
        ("tests/runs/test_calibrated_runs.py::test_scores_leave_them_out_and_say_so",),
    ),
    Fault(
        "calibration-items-by-id",
        "vpanalysis/_calibrated.py",
        "content = [item.question, sorted(item.choices), item.audio.key()]",
        "content = [item.id]",
        "calibration items are known by their names, which other benchmarks use too",
        ("tests/runs/test_calibrated_runs.py::test_items_are_known_by_content_and_not_by_name",),
    ),
)

_ATTRIBUTING = (
    Fault(
        "players-exchanged",
        "vpanalysis/attribution/shapley.py",
        '"listen": ((v - n) + (b - w)) / 2.0,',
        '"listen": ((w - n) + (b - v)) / 2.0,',
        "what the words do is booked to the voice",
        ("tests/attribution/test_shapley.py",),
    ),
    Fault(
        "one-foil",
        "vpanalysis/attribution/margins.py",
        "return float(scores[at] - np.logaddexp.reduce(against))",
        "return float(scores[at] - against[0])",
        "the margin looks at the first of several claims only",
        ("tests/attribution/test_shapley.py", "tests/attribution/test_factorial.py"),
    ),
    Fault(
        "inversion-by-hand",
        "vpanalysis/attribution/factorial.py",
        '"voice": _margins(tables[family.voice], heard) - _margins(tables.get(_zero_of(family), at_rest), heard),',
        '"voice": _margins(tables[family.voice], heard),',
        "a model's liking for an option counts as hearing it",
        ("tests/attribution/test_factorial.py", "tests/attribution/test_known_truth.py"),
    ),
    Fault(
        "words-effect-upside-down",
        "vpanalysis/attribution/textual.py",
        '((both["congruent"] - both["conflict"]) / 2)',
        '((both["conflict"] - both["congruent"]) / 2)',
        "readers are called inverters",
        ("tests/attribution/test_textual.py::test_planted_word_effects_are_recovered",),
    ),
    Fault(
        "own-clip-as-the-wrong-one",
        "vpanalysis/attribution/textual.py",
        "if one.task_name == item.task_name and keys[at] != keys[number]]",
        "if one.task_name == item.task_name and at == number]",
        "the wrong clip is the right one",
        ("tests/attribution/test_textual.py::test_each_control_takes_away_what_it_says",),
    ),
    Fault(
        "patched-one-frame-late",
        "vpanalysis/attribution/_hooks.py",
        "at = (rows[here] - first).to(state.device), columns[here].to(state.device)",
        "at = (rows[here] - first).to(state.device), (columns[here] + 1).clamp(max=new.shape[1] - 1).to(state.device)",
        "states are written over the frame behind their own",
        ("tests/attribution/test_patching.py::test_everything_written_is_the_other_run",),
    ),
    Fault(
        "mean-of-ratios",
        "vpanalysis/attribution/_recovery.py",
        "best = Recovered(float(n.mean() / d.mean()), *found, groups, name)",
        "best = Recovered(float((n / d).mean()), *found, groups, name)",
        "pairs in which nothing was to be recovered rule the share",
        ("tests/attribution/test_patching.py::test_the_interval_holds_the_ratios_that_cannot_be_told_from_it",),
    ),
    Fault(
        "own-mixture-as-anothers",
        "vpanalysis/attribution/_mixtures.py",
        "np.roll(turned, 1).tolist()",
        "np.roll(turned, 0).tolist()",
        "another task's mixture is the task's own, and prompts seem not to matter",
        ("tests/attribution/test_gates.py::test_another_mixture_is_another_ones",),
    ),
    Fault(
        "attention-from-the-first-token",
        "vpanalysis/attribution/_attended.py",
        "seen[layer] = weights[:, :, -1].float().cpu()",
        "seen[layer] = weights[:, :, weights.shape[2] // 2].float().cpu()",
        "attention is read at another position than the answer",
        ("tests/attribution/test_attention.py",),
    ),
    Fault(
        "weight-added-as-it-is",
        "vpanalysis/attribution/_fused.py",
        "math.log(weight) if weight > 0 else -math.inf",
        "weight if weight > 0 else -math.inf",
        "an attention weight of 1 multiplies attention by e",
        ("tests/attribution/test_fusion.py",),
    ),
    Fault(
        "random-push-of-another-length",
        "vpanalysis/attribution/_directions.py",
        "out: FloatArray = where * (float(np.linalg.norm(push)) / length)",
        "out: FloatArray = where / length",
        "random directions are shorter than the one that they stand beside",
        ("tests/attribution/test_steering.py::test_random_pushes_are_exactly_as_long",),
    ),
    Fault(
        "trained-on-who-is-asked",
        "vpanalysis/attribution/_plans.py",
        "return (item.speaker is not None and item.speaker in speakers) or (",
        "return False and (",
        "a direction has met the speakers that it is tried on",
        ("tests/attribution/test_steering.py::test_no_speaker_and_no_wording_is_on_both_sides",),
    ),
    Fault(
        "old-weights-remembered",
        "vpanalysis/models/audio_model.py",
        "if self._weights_sha is None or size <= _REHASHED:",
        "if self._weights_sha is None:",
        "a model that was changed in place gets the results of the one that it was",
        ("tests/attribution/test_work.py::test_changed_weights_items_and_wordings_are_other_work",),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *_LISTENING,
    *_MIXING,
    *_CHECKPOINTS,
    *_RECORDING,
    *_SCORING,
    *_PROBING,
    *_FAMILIES,
    *_MINI,
    *_CALIBRATING,
    *_ATTRIBUTING,
    Fault(
        "best-site-peeks",
        "vpanalysis/probes/nested.py",
        "        out[fold.test] = chances[one][fold.test]\n",
        "        out[fold.test] = chances[(chances.argmax(-1) == plan.items.labels).mean(1).argmax()][fold.test]\n",
        "the best of many useless layers looks better than guessing",
        ("tests/probes/test_paired.py::test_the_best_site_is_found_and_its_accuracy_is_honest",),
    ),
    Fault(
        "compared-by-position",
        "vpanalysis/probes/paired.py",
        "left, right = left.loc[common], right.loc[common]",
        "left, right = left.loc[common], right.iloc[: len(common)].set_axis(common)",
        "two Runs in another order are compared item against another item",
        ("tests/probes/test_paired.py::test_runs_are_matched_by_item_whatever_the_order",),
    ),
    Fault(
        "sites-not-one-family",
        "vpanalysis/_flips.py",
        "any_member += (found.max(axis=1)[:, None] >= seen).sum(axis=0)",
        "any_member += (found >= seen).sum(axis=0)",
        "of twenty sites that do not differ one does",
        ("tests/test_flips.py::test_of_many_useless_members_few_families_have_one_below_five_percent",),
    ),
    Fault(
        "shuffles-know-no-folds",
        "vpanalysis/probes/shuffles.py",
        "return drawn[:, which] if folds is None else _even(drawn, which, labels, folds, n)",
        "return drawn[:n, which]",
        "shuffled speakers score below chance, and nothing is something",
        ("tests/probes/test_probe_shuffles.py",),
    ),
    Fault(
        "folds-do-not-covary",
        "vpanalysis/probes/_intervals.py",
        "level=level, chance=chance)",
        "level=level, chance=None)",
        "intervals of guessing probes are too narrow, however many speakers there are",
        ("tests/probes/test_probe_intervals.py",),
    ),
)
"""All of them, in the order of the table."""
