"""Defects that the tests must catch, as data: an edit of one file, and the tests of which one must fail.

`old` occurs exactly once in its file; an entry for which that is no longer so is stale, an error. Tests are named
from this folder. `make mutants` (`run_mutants.py`) applies each edit to a copy and lists what survives.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    tests: str  # arguments of pytest, below tests/


MUTANTS: list[Mutant] = []


def mutate(file: str, tests: str, *edits: tuple[str, ...]) -> None:
    """Adds edits (old, new) or (old, new, tests of its own) of one file."""
    for old, new, *own in edits:
        MUTANTS.append(Mutant(file, old, new, own[0] if own else tests))


# --- kernels: the twins -----------------------------------------------------------------------------------

mutate(
    "kernels/reference.py",
    "kernels/test_philox.py",
    ("+ 0.5) * 2.0**-23", "+ 0.0) * 2.0**-23"),  # a uniform of 0
    ("for _ in range(10):", "for _ in range(9):"),
    ("(counter.step & _MASK)", "(counter.step & 0xFFFF)"),
    ("u0.log_().mul_(-2)", "u0.log_().mul_(-1)"),
    ("u1.mul_(2 * math.pi)", "u1.mul_(math.pi)"),
    ("radius1 * torch.sin(angle1)", "radius1 * torch.cos(angle1)"),
    ("seed & _MASK, (seed >> 32) & _MASK", "seed & _MASK, seed & _MASK"),
)
mutate(
    "kernels/reference.py",
    "results/test_draw_store.py",
    ("& (theta != 0)).sum()", ").sum()"),  # zeros are no underflow
    ("slot.copy_(theta.clamp(-info.max, info.max))", "slot.copy_(theta)"),
    ("(magnitude > info.max)", "(magnitude >= info.max)"),
)
mutate(
    "kernels/reference.py",
    "kernels/test_average.py -k torch",
    ("torch.special.entr(p).sum(-1)", "torch.special.entr(p).mean(-1)"),
    ("    sums += p\n", "    sums.copy_(p)\n"),
    ("p = torch.softmax(logits, dim=-1,", "p = torch.softmax(logits, dim=1,"),  # over points, not classes
)
mutate(
    "kernels/prior.py",
    "targets/test_priors.py",
    ("return -torch.abs(x) / s - log_s - math.log(2)", "return -torch.abs(x) / s - log_s"),
    ("return -torch.tanh(x / (2 * s)) / s", "return -torch.tanh(x / s) / s"),
    ("return -(a + 1) * x / (a * s * s + x * x)", "return -a * x / (a * s * s + x * x)"),
    ("0.5 * (a + 1) * torch.log1p((x / s) ** 2 / a)", "0.5 * (a + 1) * torch.log1p((x / s) ** 2)"),
    ("math.log(a * b / (1 - a))", "math.log(a / (1 - a))"),
    ("torch.sigmoid(-logits) / b**2)", "torch.sigmoid(-logits) / b)"),
    ("        return -x / (s * s)\n", "        return -x / s\n"),
)

# --- kernels: Triton, against the twins ---------------------------------------------------------------------

mutate(
    "kernels/prior_device.py",
    "kernels/test_ops.py -k 'test_update_with_every_prior or test_energies_with_every_prior'",
    ("value = -(p + 1.0) * x / (p * s * s + x * x)", "value = -p * x / (p * s * s + x * x)"),
    ("return math.log((1 - a) / b) -", "return math.log(1 - a) -"),
)
mutate(
    "kernels/philox.py",
    "kernels/test_philox.py -k kernel_gives",
    ("z2, z3 = _pair(w2, w3)", "z2, z3 = _pair(w0, w3)"),
    (
        "tl.join(tl.join(lane0, lane2), tl.join(lane1, lane3))",
        "tl.join(tl.join(lane0, lane1), tl.join(lane2, lane3))",
    ),
)
mutate(
    "kernels/random.py",
    "kernels/test_ops.py -k random_words",
    ("uniform=False)", "uniform=True)"),
    ("chain * num_elements + element", "chain * (num_elements // 4 * 4) + element"),
)
mutate(
    "hmc_fast/compute/capture.py",
    "dynamics/test_gradient_step.py",
    ("buffer.copy_(values)", "pass"),
    ("with suppress(RuntimeError):", "with suppress(ValueError):"),
    ("            gc.enable()", "            pass"),
)
mutate(
    "hmc_fast/compute/precision.py",
    "compute/test_precision.py -k flags",
    ('"tf32" if tf32 else "ieee"', '"tf32" if tf32 else "none"'),
    ('(cudnn, "deterministic", True, False)', '(cudnn, "deterministic", False, False)'),
    ("in saved:  # the newer", "in saved[:2]:  # the newer"),
)
mutate(
    "kernels/store.py",
    "kernels/test_ops.py -k test_store",
    ("over = (magnitude > top)", "over = (magnitude >= top)"),
    (" & (magnitude > 0.0)", ""),
    ("tl.where(theta < -top, -top, theta)", "theta"),
)
mutate(
    "kernels/average.py",
    "kernels/test_average.py -k triton",
    ("logits - tl.max(logits, axis=1)[:, None]", "logits"),  # overflows
    ("tl.where(p == 0.0, 0.0, shifted - tl.log(total))", "shifted - tl.log(total)"),
    ('tl.where(column < num_classes, logits, float("-inf"))', "logits"),  # the padding takes part
    ("within = row < num_rows", "within = row <= num_rows"),
)
mutate(
    "kernels/reduce.py",
    "kernels/test_ops.py::test_second_stage_of_a_sum",
    ("mask=begin + lane < width", "mask=begin + lane <= width"),
    ("begin += BLOCK", "begin += BLOCK + 1"),
)

# --- targets -----------------------------------------------------------------------------------------------

mutate(
    "hmc_fast/targets/priors.py",
    "targets/test_priors.py",
    ("return math.sqrt(self.variance / 2)", "return math.sqrt(self.variance)"),
    ("return math.sqrt(3 * self.variance) / math.pi", "return math.sqrt(self.variance) / math.pi"),
    (
        "(self.degrees_of_freedom - 2) / self.degrees_of_freedom)",
        "self.degrees_of_freedom / (self.degrees_of_freedom - 2))",
    ),
    ("(1 - self.weight) * self.ratio**2))", "(1 - self.weight) * self.ratio))"),
    ("return math.sqrt(self.variance)\n", "return self.variance\n"),  # variance for deviation
    ("        taken |= matched\n", ""),
    (
        "if prior.fan_in and not isinstance(group, Prior):",
        "if False:",
        "targets/test_prior_density.py -k mistakes",
    ),
)
DENSITY = "targets/test_prior_density.py"
mutate(
    "hmc_fast/targets/prior_table.py",
    "targets/test_priors.py",
    ("flat.fan_in().double().rsqrt()", "flat.fan_in().double().reciprocal()"),
    ("weight, z, z * ratio)", "weight, z, z)"),
    ("second[:, part] < weight", "second[:, part] > weight"),
    ("(table[-1].family, table[-1].shape) == kind", "table[-1].family == kind[0]"),
    ("0 if segment.mean is None else segment.mean[part].double().cpu()", "0", f"{DENSITY} -k begin"),
    ("prior.shape(), mean),)", "prior.shape()),)", f"{DENSITY} -k 'density_and_gradient or launch'"),
    ("replace(s, scale=scale, mean=mean)", "replace(s, scale=scale)", f"{DENSITY} -k density_and_gradient"),
)
mutate(
    "hmc_fast/targets/prior_density.py",
    DENSITY,
    ("grad.add_(self._gradients(theta, vmap=self._vmap))", "pass", f"{DENSITY} -k density_and_gradient"),
    ("own = {name: views[name] for name in self.names}", "own = views", f"{DENSITY} -k density_and_gradient"),
    (
        "return self.log_prob(new_theta) - self.log_prob(theta)",
        "return self.log_prob(theta)",
        f"{DENSITY} -k density",
    ),
    ("(high << 30 ^ low)", "(0 * high)", f"{DENSITY} -k drawn"),
    ("        with torch.random.fork_rng(devices=[]):\n", "        if True:\n", f"{DENSITY} -k drawn"),
    ("    Distribution.set_default_validate_args(False)\n", "", f"{DENSITY} -k every_path"),
    ("torch.cat((points, 0.1 * points))", "torch.zeros_like(points)", f"{DENSITY} -k resume"),
    ("if not torch.equal(value, again):", "if False:", f"{DENSITY} -k mistakes"),
    ("if not bool(torch.isfinite(value)):", "if False:", f"{DENSITY} -k mistakes"),
)
mutate(
    "hmc_fast/targets/prior_means.py",
    DENSITY,
    (
        "return mean.split(flat.sizes)[index]",
        "return mean[: flat.sizes[index]]",
        f"{DENSITY} -k density_and_gradient",
    ),
    ("torch.as_tensor(value).detach().clone()", "torch.as_tensor(value).detach()", f"{DENSITY} -k copied"),
)
mutate(
    "kernels/energy.py",
    "kernels/test_ops.py -k energies_with_every_prior",
    ("            theta -= mean\n", ""),
    ("                new -= mean\n", ""),
)
mutate(
    "kernels/prior_device.py",
    "kernels/test_ops.py -k update_with_every_prior",
    ("return grad(x, s, tl.full", "return grad(theta, s, tl.full"),
)
mutate(
    "hmc_fast/targets/posterior.py",
    "samplers/test_own_batches.py -k 'examples_are or scaled'",
    ("scale=self.num_data / count,", "scale=1.0,"),
)
mutate(
    "hmc_fast/samplers/minibatch_chain.py",
    "samplers/test_own_batches.py -k 'mclmc or sgld'",
    ("        scratch.log_lik = own.new_empty(len(own), size)\n", "        scratch.log_lik = own[:, :size]\n"),
    ("        finally:\n            scratch.log_lik = own\n", "        finally:\n            pass\n"),
)
mutate(
    "hmc_fast/results/predicted.py",
    "results/test_quantiles.py",
    ("values[..., 0] if", "values[..., 1] if"),
    ("axis=(0, 1)))", "axis=1)[:, 0])"),
    ("average.sums[:, part], average.second[:, part], average.count = own.sums, own.second, own.count", "pass"),
    ("_QUANTILE_BYTES // per_input", "batch_size"),
)
mutate(
    "hmc_fast/samplers/window_adaptation.py",
    "engine/test_expected_work.py",
    ("return self.adaptation.num_leapfrog if learned else None", "return None"),
)
mutate(
    "hmc_fast/targets/likelihoods.py",
    "targets/test_likelihoods.py",
    ("(y - outputs.reshape(y.shape)) / self.noise_std\n", "(y - outputs.reshape(y.shape)) / self.noise_std**2\n"),
    ("self.noise_std**2)", "self.noise_std)"),
    ("- torch.log(std) -", "- 0.5 * torch.log(std) -"),
    ("+ self.min_std) ** 2), dim=-1)", "+ self.min_std)), dim=-1)"),
    ("torch.stack((1 - p, p), dim=-1)", "torch.stack((p, 1 - p), dim=-1)"),
)
mutate(
    "hmc_fast/targets/flat_module.py",
    "targets/test_flat_module.py",
    ("math.prod(shape[1:]) if", "shape[1] if"),
    ("self.module.named_parameters() if", "self.module.named_parameters(remove_duplicate=False) if"),
    ("self.module = copy.deepcopy(model)", "self.module = model"),
    ("channels_last=True).sum())(row)", "channels_last=False).sum())(row)"),
)

# --- dynamics ----------------------------------------------------------------------------------------------

UBU = "samplers/test_ubu.py"

mutate(
    "hmc_fast/compute/recording.py",
    "compute/test_recording.py",
    ("                tensor.copy_(saved)", "                pass"),
    ("func = torch.ops.aten.clone.default", "pass"),
    ("return all((repeats.number > 0) == ran", "return all(((repeats.number > 0) == ran) or True"),
    ("if step.view or not (step.writes or", "if step.view or not ("),
    ("if torch.Tag.nondeterministic_seeded in func.tags:", "if False:"),
    ("if waits_for_value(func, args):", "if False:"),
)
mutate(
    "hmc_fast/compute/native/units.py",
    "compute/test_native.py",
    ("if len(places) != len(written):", "if False:"),
    ("block += {_BLOCK}", "block += {_BLOCK + 1}"),
)
mutate(
    "hmc_fast/compute/native/scope.py",
    "compute/test_native.py",
    ("if unit.writes & touched or result.memory in unit.reads:", "if unit.writes & touched:"),
    ("if unit.writes & touched or result.memory in unit.reads:", "if result.memory in unit.reads:"),
)
mutate(
    "hmc_fast/compute/native/allocation.py",
    "compute/test_native.py",
    ("slot.free_from <= first[name]", "slot.free_from <= first[name] + 1"),
    ("last[name] + 1)", "first[name] + 1)"),
    ("places[other] == places[name]", "True"),
)
mutate(
    "hmc_fast/compute/native/preamble.h",
    "compute/test_native.py",
    ("l + W - (columns - whole)", "l"),
    ("more ? *at + value : value", "value"),
    ("starts[v] > n - W) starts[v] = n - W;", "starts[v] > n) starts[v] = n - W;"),
    ("blocks * (part + 1) / parts * 12 : m", "blocks * (part + 1) / parts * 12 - 12 : m"),
    ("for (int64_t q = p; q < k; q++) totals", "for (int64_t q = p + 1; q < k; q++) totals"),
    ("x = 1 - x;", "x = -x;"),
)
mutate(
    "hmc_fast/compute/native/products.py",
    "compute/test_native.py",
    ("m, n, a, b, c = n, m, b, a, Factor", "m, n, a, b, c = m, n, b, a, Factor"),
    ('f"{k} * q / {_PARTS}"', 'f"{k} * q / {_PARTS} + 1"'),
)
mutate(
    "hmc_fast/compute/native/reductions.py",
    "compute/test_native.py",
    ("{sign} acc || v != v ? v : acc;", "{sign} acc ? v : acc;"),
    ("bad |= v != v;", ""),
)
mutate(
    "hmc_fast/compute/native/indexing.py",
    "compute/test_native.py",
    ('sign = "+=" if call["accumulate"] else "="', 'sign = "="'),
    ("< 0 ? {element} + {size} : {element}", "< 0 ? {element} : {element}"),
    ("start = start + size if start < 0 else min(start, size)", "start = min(start, size)"),
)
mutate(
    "hmc_fast/compute/native/elementwise.py",
    "compute/test_native.py",
    ("as_it_is = operand.dtype == kind or", "as_it_is = True or"),
    ('"{0}" if call.name == "rsub" else "{1}"', '"{1}"'),
    ("if any(name not in _WITHOUT_EFFECT", "if False and any(name not in _WITHOUT_EFFECT"),
)
mutate(
    "hmc_fast/compute/native/__init__.py",
    "compute/test_native.py",
    ("                    buffer.copy_(saved)", "                    pass"),
    ("loop.set(number)", "pass"),
    ("self._check(recording)", "pass"),
)
mutate(
    "hmc_fast/compute/native/library.py",
    "compute/test_native.py",
    ("    except OSError:  # not there yet, or damaged", "    except ValueError:"),
    (
        "    except OSError:  # a home that cannot be written, or that may hold no programs",
        "    except ValueError:",
    ),
)
mutate(
    "hmc_fast/compute/program.py",
    "samplers/test_protocol.py -k one_by_one",
    ("repeats.set(int(numbers[index]))", "repeats.set(int(numbers[0]))"),
)
mutate(
    "hmc_fast/compute/random_streams.py",
    "compute/test_random_streams.py",
    ("step & 0xFFFFFFFF", "step + 1 & 0xFFFFFFFF"),
)
mutate(
    "hmc_fast/dynamics/minibatches.py",
    "dynamics/test_minibatches.py",
    ("epoch = step * self.batch_size //", "epoch = (step + 1) * self.batch_size //"),
    ("return -(-((epoch + 1)", "return 1 - (-((epoch + 1)"),
    ("self._permutation(epoch + 1)", "self._permutation(epoch)"),
    ("(high >> 1 << 31) | (low >> 1)", "high >> 31"),  # one bit sorts badly
    ("forwards.flip(1)", "forwards"),  # no palindrome
)
mutate("kernels/reference.py", "dynamics/test_minibatches.py", ("(step * length, period)", "(step, period)"))
mutate(
    "hmc_fast/dynamics/minibatches.py",
    "dynamics/test_minibatches.py -k streamed",
    ("if self._reader is not None and step != self._step + 1:", "if False:"),
    ("if self._reader is None or self._reader.closed:", "if self._reader is None:"),
)
mutate(
    "hmc_fast/dynamics/gradient_step.py",
    "dynamics/test_gradient_step.py",
    ("        if target.stream is not None:  # the", "        if False:  # the"),
)
mutate(
    "hmc_fast/dynamics/schedules.py",
    "dynamics/test_schedules.py",
    ("torch.cos(0.5 * math.pi *", "torch.cos(math.pi *"),
    ("period = self.cycle_length * steps_per_iteration", "period = self.cycle_length"),
    (">= self.cycle_length - self.keep", "> self.cycle_length - self.keep"),
    ("< self.exploration\n", "<= self.exploration\n"),
    ("(-0.5 * self.power)", "(-self.power)"),
)
mutate(
    "hmc_fast/dynamics/metropolis.py",
    "dynamics/test_metropolis.py",
    ("DIVERGENCE_THRESHOLD, density", "0.0, density"),
)
mutate(
    "kernels/reference.py",
    "dynamics/test_metropolis.py",
    ("torch.log(uniform) < -safe", "torch.log(uniform) < safe"),
    ("uniform < torch.exp(-safe)", "uniform < torch.exp(-safe / 2)"),
    ("torch.exp(-safe.clamp_min(0))", "torch.exp(-safe)"),
    ("safe = torch.where(finite, energy_error, torch.inf)", "safe = torch.where(finite, energy_error, -torch.inf)"),
    ("safe > divergence_threshold", "safe == torch.inf"),
    ("accepted | (untested & finite)", "accepted | untested"),
    ("(new_log_lik.double() - log_lik.double()).sum(1)", "(new_log_lik.sum(1) - log_lik.sum(1)).double()"),
)

# --- streamed data -----------------------------------------------------------------------------------------

STREAMING = "targets/test_streaming.py"
mutate(
    "hmc_fast/targets/streaming.py",
    f"{STREAMING} -k 'kept or mistakes or changed or rare or goes_on'",
    ("if needed > _SHARE * free:", "if needed >= _SHARE * free:"),
    ("check_data(x, y, first_row=part.start)", "check_data(x, y)"),
    (
        "known = y.flatten() if extremes is None else torch.cat([extremes, y.flatten()])",
        "known = y.flatten()",
    ),
    ("if not self.changes and not same(self._spots", "if False and not same(self._spots"),
    ("changes = changes or not same(source.spots(), source.spots())\n", "\n"),
    ("hash.update(self._converted(tensor)", "hash.update(tensor"),
)
mutate(
    "hmc_fast/targets/streaming.py",
    f"{STREAMING} -k 'failures or resumed or passes or ends_before'",
    ("                    reader.close()\n", "                    pass\n"),
    ("            with ended_workers_told():\n", "            if True:\n"),
    ("reader = self._in_order.pop(size, None)", "reader = self._in_order.get(size)"),
)
mutate(
    "hmc_fast/targets/reading.py",
    f"{STREAMING} -k 'ctrl_c or number_of_workers or wrote'",
    ("number = workers * ahead + 1", "number = workers * ahead"),
    ("signal.signal(getattr(signal, name), signal.SIG_IGN)", "pass"),
    ("generator=torch.Generator().manual_seed(0),  #", "#"),
    ("                begin = end\n", "                begin = len(y)\n"),
)
mutate(
    "hmc_fast/targets/reading.py",
    f"{STREAMING} -k 'kept or resumed'",
    ("            self._thread.shutdown(cancel_futures=True)", "            pass"),
    (
        "        self.closed, self._batches = True, iter(())\n        self._finalizer()\n",
        "        self.closed = True\n",
    ),
)
mutate(
    "hmc_fast/targets/sources.py",
    f"{STREAMING} -k 'whole or changed or mistakes or rare'",
    ("plain = array.flags.c_contiguous and", "plain = True or array.flags.c_contiguous and"),
    ("        if found != self.num_data:", "        if found > self.num_data:"),
    ("_collated([pairs[0], pair])", "_collated([pair, pair])"),
    ("_SPOTS = 8", "_SPOTS = 2"),
)
mutate(
    "hmc_fast/compute/batches.py",
    f"{STREAMING} -k recorded",
    ("lambda t: t[:, part].contiguous()", "lambda t: t.contiguous()"),
)

# --- adaptation --------------------------------------------------------------------------------------------

mutate(
    "hmc_fast/adaptation/dual_averaging.py",
    "adaptation/test_dual_averaging.py",
    ("weight = 1 / (count + _T0)", "weight = 1 / count"),
    ("centre - count.sqrt() / _GAMMA * error", "centre + count.sqrt() / _GAMMA * error"),
    ("share = count**-_KAPPA", "share = count**-0.5"),
    ("accept_prob.double(), nan=0.0)", "accept_prob.double(), nan=1.0)"),
    ("log_step + math.log(_OPTIMISM)", "log_step"),
)
mutate(
    "hmc_fast/adaptation/energy_variance.py",
    "adaptation/test_energy_variance.py",
    ("** (-1 / 6), step)", "** (-1 / 2), step)"),
    ("(self.dimension * self.wanted)", "self.wanted"),
    ("_SHRINK * step))", "step))"),
)
mutate(
    "hmc_fast/adaptation/initial_step_size.py",
    "adaptation/test_initial_step_size.py",
    ("torch.where(accepts, 2.0, 0.5)", "torch.where(accepts, 2.0, 0.25)"),
    ("nan=0.0) > _CROSSED", "nan=1.0) > _CROSSED"),
    ("torch.where(searching, step_size * factor, step_size)", "step_size * factor"),
)
mutate(
    "hmc_fast/adaptation/moments.py",
    "adaptation/test_moments.py",
    ("shift**2 * self.count * share", "shift**2 * share"),
    ("(self.count - 1).clamp_min(1)", "self.count.clamp_min(1)"),
    ("(draws / gradients).sqrt()", "draws / gradients"),
    (" & (value > 0)", ""),
    ("values.unflatten(0, (len(self.mean), -1))", "values.unflatten(0, (-1, len(self.mean))).transpose(0, 1)"),
)
mutate(
    "hmc_fast/adaptation/decorrelation.py",
    "adaptation/test_decorrelation.py",
    ("proposal - self.means", "theta - self.before"),
    ("ratio > _SHORTEST, ratio < _LONGEST", "ratio > 0, ratio > 0"),
    ("ratio > _SHORTEST, ratio < _LONGEST", "(ratio > _SHORTEST) & (ratio < _LONGEST), ratio < _LONGEST"),
    ("a * b / inverse_mass", "a * b * inverse_mass"),
    ("factor.double().log()", "-factor.double().log()"),
    ("self._log.copy_(self._averaged)", "pass"),
    ("2 / (self._draws + 2)", "1 / (self._draws + 1)"),
    ("cosine * weight", "cosine"),
)
mutate(
    "hmc_fast/adaptation/windows.py",
    "adaptation/test_windows.py",
    ("end + length + 2 * length > stop", "end + 2 * length > stop"),
    ("return iteration + 1 in self.ends", "return iteration in self.ends"),
    ("iteration < self.ends[-1]", "iteration <= self.ends[-1]"),
)

# --- results -----------------------------------------------------------------------------------------------

mutate(
    "hmc_fast/results/diagnostics.py",
    "results/test_diagnostics.py",
    ("x.var(axis=1, ddof=1).mean(0)", "x.var(axis=1).mean(0)"),
    ("between = length * x.mean(1).var(axis=0, ddof=1)", "between = length * x.mean(1).var(axis=0)"),
    (
        "np.maximum(_rhat(_rank_normalised(parts)), _rhat(_rank_normalised(folded)))",
        "_rhat(_rank_normalised(parts))",
    ),
    ("- 0.375) / (count + 0.25)", "- 0.5) / count"),
    ("x[:, x.shape[1] - half :]", "x[:, half : 2 * half]"),
    ("return np.minimum(*(_ess", "return np.maximum(*(_ess"),
    ("squares.mean((0, 1)) / 4)", "squares.mean((0, 1)) / 2)"),
    ("energies.var(1, ddof=1)", "energies.var(1)"),
    ("fft.next_fast_len(2 * length)", "fft.next_fast_len(length)"),  # a circle, not a line
    ("total = total + x.mean(1).var(axis=0, ddof=1)", "pass"),
    ("max(0, (length - 3) // 2)", "max(0, (length - 5) // 2)"),
    ("np.where(before, np.minimum.accumulate(pairs, axis=0), 0)", "np.where(before, pairs, 0)"),
    (" & ~_still(part)", ""),
    ("x.std((0, 1), ddof=1) / np.sqrt(", "x.var((0, 1), ddof=1) / np.sqrt("),
)
mutate(
    "hmc_fast/results/model_average.py",
    "results/test_model_average.py",
    ("torch.special.entr(p).sum(-1)", "torch.special.entr(p).mean(-1)"),
    ("variance + mean**2), dim=-1)", "variance), dim=-1)"),
    ("self.sums.mean(0) / self.count", "self.sums[0] / self.count"),  # one chain for all
    ("self.curve[self.count - 1]", "self.curve[self.count % len(self.curve)]"),
    ("-torch.log(chosen.clamp_min(tiny))", "-torch.log(chosen)", "results/test_predictions.py"),
    ("second = (self.second.mean(0) /", "second = (self.second.sum(0) /"),
    ("torch.logsumexp(self.log_density, 0) - math.log(draws)", "torch.logsumexp(self.log_density, 0)"),
    ("        self.count += 1\n", "        self.count = len(self.curve) or 1\n"),
    ("torch.log(2 * torch.pi * variance)", "torch.log(torch.pi * variance)"),
)
mutate(
    "hmc_fast/results/predictions.py",
    "results/test_predictions.py results/test_model_average.py",
    ("[len(b) * abs(", "[abs("),
    ("(p * np.log(np.maximum(p,", "(p * np.log2(np.maximum(p,"),
    ("return np.maximum(total - self.aleatoric, 0.0)", "return total - self.aleatoric"),
    ("((self.probs - hot) ** 2).sum(1).mean()", "((self.probs - hot) ** 2).mean()"),
    ("self.variance * scale**2", "self.variance * scale"),
    ("self.aleatoric * scale**2", "self.aleatoric * scale"),
    ("return float(0.5 * np.abs(", "return float(np.abs(", "experiments/test_page.py"),
)
mutate(
    "hmc_fast/results/draw_store.py",
    "results/test_draw_store.py",
    ("self._pushed - self.rows.count == self.capacity", "self._pushed - self.rows.count > self.capacity"),
    ("slot = self._pushed % self.capacity", "slot = (self._pushed - self.rows.count) % self.capacity"),
    ("max(slot, self._pushed - self.rows.count)", "slot"),
    ('"ki": 2**10', '"ki": 10**3'),
    ("if size < draw_size:", "if size <= draw_size:"),
)

# --- data sets ---------------------------------------------------------------------------------------------

mutate(
    "hmc_fast/datasets/base.py",
    "datasets/test_base.py datasets/test_uci.py",
    ("np.where(constant, 1.0, values.std(axis=0))", "np.where(constant, 1.0, values.var(axis=0))"),
    ("np.where(constant, 1.0, values.std(axis=0))", "values.std(axis=0)"),
    ("(np.arange(len(members)) + 0.5) / len(members)", "np.arange(len(members)) + 0.5"),
    ("(y < 0) | (y >= num_classes)", "(y < 0) | (y > num_classes)"),
    ("x_test, y_test = x_test[test], y_test[test]", "x_test, y_test = x_test[test], y_test[: len(test)]"),
)
mutate(
    "hmc_fast/datasets/uci.py",
    "datasets/test_uci.py",
    ("scales(table[train])", "scales(table)"),  # the test set leaks
    ("np.setdiff1d(np.arange(len(table)), test)", "np.arange(len(table))"),
    ("split >= len(lines)", "split > len(lines)"),
    ("permutation(count, split)[", "permutation(count, 0)["),
)
mutate(
    "hmc_fast/datasets/fashion.py",
    "datasets/test_fashion.py",
    (".div_(255)", ".div_(256)"),
    ("(read_csv(folder / name) for name in _CSV)", "(read_csv(folder / name) for name in _CSV[::-1])"),
)
mutate(
    "hmc_fast/datasets/csv.py",
    "datasets/test_fashion.py",
    ("(pixels < 0) | (pixels > 255)", "(pixels < 0) | (pixels > 256)"),
    ("[stat.st_size, stat.st_mtime_ns]", "[0, 0]"),
)
mutate("hmc_fast/datasets/idx.py", "datasets/test_idx.py", ('dtype=">u4"', 'dtype="<u4"'))
mutate("hmc_fast/datasets/digits.py", "datasets/test_digits.py", ("stratify=y, ", ""))

# --- kernels: updates and energies --------------------------------------------------------------------------

mutate(
    "kernels/reference.py",
    "kernels/test_ops.py -k 'hand or climbs or force or energies_with_several or large_energies'",
    ("rate = fraction * factors[:, KICK, None]", "rate = factors[:, KICK, None]"),
    ("momentum.mul_(factors[:, DECAY, None])", "momentum.mul_(1.0)"),
    ("std = std * torch.rsqrt(inverse_mass.to(momentum.dtype))", "std = std * inverse_mass.to(momentum.dtype)"),
    (
        "theta.addcmul_(velocity, coefficients[:, DRIFT, None]",
        "theta.addcmul_(velocity, coefficients[:, KICK, None]",
    ),
    ("    out.mul_(inverse_temperature)\n", ""),
    ("(new_momentum.double() + momentum.double()) / 2", "(new_momentum.double() + momentum.double())"),
    ("- inverse_temperature * prior_difference(theta", "- prior_difference(theta"),
    (
        "(new_momentum.double() - momentum.double()) * (new_momentum.double() + momentum.double())",
        "(new_momentum**2 - momentum**2).double()",
    ),
)
mutate(
    "kernels/leapfrog.py",
    "kernels/test_ops.py -k 'hand or force or several_segments'",
    ("m = m * decay + xi * std", "m = m + xi * std"),
    ("rate = tl.full((), fraction, dtype) * tl.load", "rate = tl.load"),
    ("(element >= start) & (element < stop)", "(element >= start) & (element <= stop)"),
    ("xi = xi / tl.sqrt(inverse_mass)", "xi = xi * tl.sqrt(inverse_mass)"),
)
mutate(
    "kernels/energy.py",
    "kernels/test_ops.py -k 'energies_with_several or kinetic_energy'",
    ("partial += 0.5 * tl.sum(kinetic, axis=0)", "partial += tl.sum(kinetic, axis=0)"),
    ("partial += prior_factor * tl.sum", "partial -= prior_factor * tl.sum"),
    ("(new - m) * (new + m)", "(new - m) * (new - m)"),
)

# --- gradients and targets --------------------------------------------------------------------------------

mutate(
    "hmc_fast/targets/base.py",
    "targets/test_posterior.py targets/test_base.py",
    ("* (self.num_data / count) + self.log_prior(theta)", "+ self.log_prior(theta)"),
    ("return -log_density / self.temperature, -force", "return -log_density, -force"),
)
mutate(
    "hmc_fast/targets/initial_states.py",
    "targets/test_posterior.py targets/test_base.py",
    ("(4 * uniform - 2)", "(2 * uniform - 1)"),
)

# --- dynamics -----------------------------------------------------------------------------------------------

mutate(
    "hmc_fast/dynamics/coefficients.py",
    "dynamics/test_integrators.py",
    ("(kick / temperature, *others)", "(kick * temperature, *others)"),
    ("(kick / temperature, *others)", "(kick / temperature, *others[::-1])"),
    ("lost**2 / s", "lost / s", UBU),
    ("torch.where(x < 0.25, series * x * x,", "torch.where(x < 0.0, series * x * x,", UBU),
    ("on * s / friction)", "on * s)", UBU),
)
mutate(
    "hmc_fast/dynamics/integrators.py",
    "dynamics/test_integrators.py",
    ('LEAPFROG = Integrator("leapfrog", end=0.5', 'LEAPFROG = Integrator("leapfrog", end=1.0'),
    ("end=2 * _A, inner=", "end=_A, inner="),
    ("coefficients, fraction=integrator.end)", "coefficients)"),
    ("// len(self._steps) - 1)", "// len(self._steps))"),
    ("inner=(2 * (1 - 2 * _A), 4 * _A)", "inner=(4 * _A, 2 * (1 - 2 * _A))"),
    ("* (1 - 1e-9)", "", "samplers/test_protocol.py -k ceiling"),
)
mutate(
    "hmc_fast/dynamics/isokinetic.py",
    "dynamics/test_isokinetic.py",
    ("degrees = u.shape[1] - 1", "degrees = u.shape[1]"),
    ("along = (1 - decay) *", "along = (1 + decay) *"),
    ("degrees * (delta - math.log(2) + total)", "(delta - math.log(2) + total)"),
    ("(1 - cosine) * decay**2", "(1 - cosine) * decay"),
)

# --- samplers -----------------------------------------------------------------------------------------------

PROTOCOL = "samplers/test_protocol.py"
mutate(
    "hmc_fast/samplers/ubu.py",
    UBU,
    ("(eps + following) / 2", "eps"),  # no half at the end
    ("chain.first_counter(OPENING))", "chain.counter(FLOW))"),  # noise that comes again
    ("eps[:1] / 2, self.friction", "eps[:1], self.friction"),
    ("add_(chain.anchor - chain.theta,", "sub_(chain.anchor - chain.theta,"),
    ("state.anchor_sum.copy_(state.grad)", "pass"),
    (".sub_(chain.work.anchor_grad)", ""),
    ("return 2 * math.ceil(", "return math.ceil("),
    ("symmetric = True", "symmetric = False", "samplers/test_stationary_distributions.py -k smsubu"),
)
mutate(
    "kernels/flow.py",
    "kernels/test_ops.py -k flow",
    ("stream + 1", "stream"),  # one noise for both
    ("xi1 * root", "xi1 / root"),
    ("m * decay + pushing", "m * decay - pushing"),
)
mutate(
    "hmc_fast/adaptation/energy_guard.py",
    "adaptation/test_energy_guard.py",
    ("torch.minimum(size, highest)", "size"),  # a spike makes room for the next
    ("count >= _EXEMPT", "count >= 0"),
    ("1 / (9 * shape)", "0"),
    ("return ~finite |", "return"),
    ("counts & (finite | known)", "(finite | known)"),
)
mutate(
    "hmc_fast/samplers/mclmc.py",
    "adaptation/test_energy_guard.py",
    ("        self._step_back(chain, spike)\n", ""),
    ("torch.where(spike[:, None], chain.log_lik_before[:, None], chain.log_lik)", "chain.log_lik"),
    ("torch.full_like(theta[:, 0], torch.nan)", "torch.zeros_like(theta[:, 0])"),  # hides a start that is NaN
    (".all() & chain.learning", ".all()"),
)
BIAS = "results/test_bias_certificate.py"
mutate(
    "hmc_fast/results/bias_certificate.py",
    BIAS,
    ("state.joins_two = halvings == 0", "state.joins_two = False"),
    ("learned / 2**halvings, steps * 2**halvings", "learned / 2**halvings, steps"),
    ("to(target.device) * 2**halvings", "to(target.device)"),
    ("    share = 1 - 2.0**-sampler.bias_order", "    share = 1.0"),
    ("means.mean(0) ** 2 - noise", "means.mean(0) ** 2"),
    ("own.adapt = False", "pass"),
    ("-((density[0] - density[1]) / average)", "((density[0] - density[1]) / average)"),
    ("own: Any = copy.copy(sampler)", "own: Any = sampler"),
)
mutate("kernels/reference.py", BIAS, ("(first + second) * math.sqrt(0.5)", "(first + second) * 0.5"))
EXACT = "samplers/test_exact_distributions.py"
mutate(
    "hmc_fast/samplers/metropolis_chain.py",
    "samplers/test_hmc.py",
    ("torch.sub(difference, likelihood", "torch.add(difference, likelihood"),
    ("ops.select(self.theta, self.proposal.theta, accepted)", "self.theta.copy_(self.proposal.theta)"),
    ("self.proposal.grad.copy_(self.grad)", "self.proposal.grad.zero_()"),
    ("        ops.select(self.grad, self.proposal.grad, accepted)\n", ""),
    ("self.iteration.on_device.add_(1)", "self.iteration.on_device.add_(0)"),
    (
        "return -(prior + ops.likelihood_difference(self.log_lik, new.log_lik)) / self.target.temperature",
        "return -(prior + ops.likelihood_difference(self.log_lik, new.log_lik))",
        f"{EXACT} -k temperature",
    ),
)
mutate(
    "hmc_fast/samplers/hmc.py",
    "samplers/test_hmc.py",
    ("state.propose(state.fresh_momentum(state.inverse_mass))", "state.propose(state.fresh_momentum(None))"),
    (
        "energy_error = state.energy_error(state.inverse_mass)\n        test",
        "energy_error = state.energy_error(None)\n        test",
    ),
    (
        "state.untested.fill_(warming_up and not self.test_in_burn_in)\n        state.trajectory",
        "state.untested.fill_(not self.test_in_burn_in)\n        state.trajectory",
        "samplers/test_hmc.py",
    ),
    (
        "state.untested.fill_(warming_up and not self.test_in_burn_in)\n        lengths",
        "state.untested.zero_()\n        lengths",
        "samplers/test_protocol.py -k one_by_one",
    ),
)
mutate(
    "hmc_fast/samplers/ghmc.py",
    EXACT + " -k ghmc",
    ("math.sqrt(1 - c**2)", "(1 - c)"),
    ("new.momentum, -state.origin.momentum", "new.momentum, state.origin.momentum"),
    (
        "torch.where(test.accepted, v / ratio, v)",
        "torch.where(test.accepted, v * ratio, v)",
        f"{EXACT} -k variable",
    ),
)
mutate(
    "hmc_fast/samplers/split_hmc.py",
    "samplers/test_split_hmc.py",
    ("fraction = kind.kicks * kind.size / target.num_data", "fraction = kind.kicks / 3"),
    ("Coefficients(kick=self.step_size / 2, drift", "Coefficients(kick=self.step_size, drift"),
    ("2 if twice else 1", "1"),
)
mutate(
    "hmc_fast/samplers/amagold.py",
    "samplers/test_amagold.py " + EXACT + " -k amagold",
    ("noise=math.sqrt(4 * eps * self.friction) / a", "noise=math.sqrt(2 * eps * self.friction) / a"),
    ("kick=eps / a, drift", "kick=eps, drift"),
    ("* (eps / 2))", "* eps)"),
    ("velocity(before + momentum)", "velocity(2 * momentum)"),
    ("words * target.num_data >> 32", "words * (target.num_data - 1) >> 32"),
)
mutate(
    "hmc_fast/samplers/adjusted_mclmc.py",
    "samplers/test_adjusted_mclmc.py",
    ("return state.potential_error() + state.kinetic_change", "return state.potential_error()"),
    ("        state.kinetic_change.zero_()\n", ""),
    ("step(partial(turn, 0.5))", "step(partial(turn, 1.0))"),
)
mutate(
    "hmc_fast/samplers/mclmc.py",
    "samplers/test_mclmc.py",
    (
        "torch.expm1(2 * chain.step_size / chain.decoherence_length)",
        "torch.expm1(chain.step_size / chain.decoherence_length)",
    ),
    ("potential - chain.potential + chain.kinetic_change", "potential - chain.potential - chain.kinetic_change"),
    ("(draws.variance / chain.inverse_mass).sum()", "draws.variance.sum()"),
)
DISTRIBUTION = "samplers/test_stationary_distributions.py"
mutate(
    "hmc_fast/samplers/minibatch_chain.py",
    PROTOCOL + " " + DISTRIBUTION,
    ("multiplier**sampler.step_size_power", "multiplier"),
    ("scale = target.num_data / log_lik.shape[1]", "scale = 1.0", "samplers/test_minibatch_chain.py"),
    ("chain.step_size.copy_(eps[-1:])", "chain.step_size.copy_(eps[:1])", "samplers/test_minibatch_chain.py"),
)
mutate(
    "hmc_fast/samplers/sghmc.py",
    "samplers/test_sghmc.py",
    ("2 * eps * (self.friction - self.noise_estimate)", "2 * eps * self.friction"),
    ("decay=1 - eps * self.friction", "decay=1 - self.friction"),
    ("torch.where(explores, 0.0,", "torch.where(~explores, 0.0,"),
)
mutate(
    "hmc_fast/samplers/sgld.py",
    DISTRIBUTION + " -k sgld",
    ("kick=eps / 2, drift=1.0", "kick=eps, drift=1.0"),
    ("decay=0.0", "decay=1.0"),
    ("torch.where(explores, 0.0, eps).sqrt()", "torch.where(explores, 0.0, 2 * eps).sqrt()"),
)
mutate(
    "hmc_fast/samplers/psgld.py",
    "samplers/test_psgld.py",
    ("chain.mean_square.sqrt() + self.damping", "chain.mean_square + self.damping"),
    ("float(warming_up or self.adapt_after_burn_in)", "1.0"),
    ("chain.grad / chain.target.num_data", "chain.grad"),
)
mutate(
    "hmc_fast/samplers/sgnht.py",
    "samplers/test_sgnht.py",
    ("2 * kinetic_energy / chain.target.num_params - 1", "kinetic_energy / chain.target.num_params - 1"),
    ("decay=1 - eps * chain.thermostat", "decay=1 - eps * self.friction"),
    ("(2 * eps * self.friction).sqrt()", "(eps * self.friction).sqrt()"),
)
mutate(
    "hmc_fast/samplers/underdamped_langevin.py",
    DISTRIBUTION,
    ("-torch.expm1(-2 * self.friction * eps)", "-torch.expm1(-self.friction * eps)"),
    ('eps / 2 if self.scheme == "baoab" else eps', "eps"),
    ("ops.kick(momentum, grad, theta, prior, c, fraction=0.5)", "ops.kick(momentum, grad, theta, prior, c)"),
)
mutate(
    "hmc_fast/samplers/window_adaptation.py",
    "adaptation/test_warm_up.py samplers/test_hmc.py",
    ("dual.averaged if last else dual.step_size", "dual.step_size"),
    ("(1 + self.jitter * (2 * uniform - 1))", "(1 + self.jitter * uniform)"),
    ("whole_steps(length / typical,", "whole_steps(length * typical,"),
)
mutate(
    "hmc_fast/samplers/protocol.py",
    PROTOCOL + " -k checkpointed",
    ("            value.copy_(tensors[name])\n", "            pass\n"),
    ('self.count = int(tensors["count"])', "self.count = 0"),
)

# --- engine, command line, files ----------------------------------------------------------------------------

POWER = "engine/test_durability.py -k power"

mutate(
    "hmc_fast/engine/checkpoint.py",
    "engine/test_checkpoint.py engine/test_runner.py -k 'resume or checkpoint or other'",
    ("    restore(state, saved)\n", ""),
)
mutate(
    "hmc_fast/atomic_files.py",
    "test_atomic_files.py",
    ("            os.replace(temporary, path)\n", "            temporary.rename(path.with_suffix('.new'))\n"),
    ("os.fchmod(descriptor, mode)", "pass"),
    ("os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW", "os.O_CREAT | os.O_RDWR"),
    ("{os.getpid()}-{secrets.token_hex(4)}", "{os.getpid()}-"),
    ("    os.fsync(descriptor)\n            finally:", "    pass\n            finally:", POWER),
    ("            _sync_folder(path.parent)\n", "", POWER),
    ("    with _writing(path):\n        os.fsync(descriptor)\n", "    pass\n", POWER),
    ("data, offset = data[written:], offset + written", "data, offset = data[written:], offset"),
)
mutate(
    "hmc_fast/results/row_files.py",
    "engine/test_durability.py -k 'damaged or power'",
    ("    if hasher.hexdigest() != counted.sha256:", "    if False:"),
    ("            if found != size:", "            if found < size:"),
    ("return self._values[: self.count]", "return self._values", "results/test_streamed_predictions.py"),
    ("            return  # without a header the file holds nothing", "            pass", POWER),
    ("        if self._synced != self.count:", "        if self._synced < 0:", POWER),
)
mutate(
    "hmc_fast/engine/checkpoint.py",
    "engine/test_durability.py -k damaged",
    ("    if not is_whole:", "    if False:"),
    ("if keep_previous and path.exists():", "if path.exists():"),
    ("rename(path, directory / PREVIOUS_FILE)", "pass"),
)
mutate(
    "hmc_fast/engine/output.py",
    "engine/test_durability.py -k 'start or damaged'",
    ("            lock.acquire()\n", "            pass\n"),
    ("        refuse_existing(self.directory)  # again", "        pass  # again"),
    ("        self._keep_previous = saved.is_newest\n", ""),
    ("    if held and not unbegun:", "    if held:"),
)
mutate(
    "hmc_fast/engine/interrupt.py",
    "engine/test_durability.py -k 'signal or nohup or long'",
    ("now - self._first > _ONE_WISH", "True"),
    ("number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN", "True"),
    ("(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)", "(signal.SIGINT,)"),
    ("            raise Abandoned\n", "            pass\n"),
)
mutate(
    "hmc_fast/results/draw_precision.py",
    "results/test_draw_precision.py",
    ("rows = rows - self.origin", "rows -= self.origin"),
    ("_SPACING_OVER_SPREAD * sd", "sd"),
    ("self.largest + _REACH * sd", "self.largest"),
    ("magnitude.clamp(min=2.0**-14)", "magnitude"),
)
mutate(
    "hmc_fast/targets/probe.py",
    "test_drop_in.py",
    ("flat.initial + 0.1 * noise", "flat.initial + 0.0 * noise"),
    ("not torch.equal(buffer, before[name])", "False"),
    ("if _equal(given, other_given) and not", "if not"),
)
mutate(
    "hmc_fast/targets/examples.py",
    "test_drop_in.py",
    ("return values.detach().clone()", "return values.detach()"),
)
mutate(
    "hmc_fast/results/predictions.py",
    "test_drop_in.py results/test_predictions.py",
    ("    if values.shape == (points, 1):", "    if False:"),
    ("    if values.shape != (points,):", "    if False:"),
)
mutate(
    "hmc_fast/engine/start.py",
    "test_drop_in.py",
    ("chain, example = undefined[0].tolist()", "chain, example = undefined[0].tolist()[0], 0"),
)
mutate(
    "hmc_fast/engine/kernel_check.py",
    "engine/test_kernel_check.py",
    ("    if key in agreed:", "    if agreed:"),
    ("        if found:", "        if len(found) > 99:"),
)
mutate(
    "hmc_fast/doctor/chains.py",
    "doctor/test_doctor.py",
    ("if difference > rounding:", "if difference > 1:"),
    ("            restore(state, kept)\n", ""),
)
mutate(
    "kernels/self_check.py",
    "kernels/test_self_check.py",
    ('nan_to_num(nan=float("inf"))', "nan_to_num(nan=0)"),
    ("    return 1e-9\n", "    return 1e-3\n"),
)
mutate(
    "hmc_fast/compute/gradient.py",
    "compute/test_gradient.py targets/test_posterior.py",
    ("values.sum() * how.scale", "values.sum()"),
    ("accumulate=part.start > 0)", "accumulate=False)"),
)
mutate(
    "hmc_fast/compute/batches.py",
    "compute/test_gradient.py targets/test_posterior.py",
    # the remainder is forgotten
    ("range(0, total, size):\n        part", "range(0, total - size + 1, size):\n        part"),
)
mutate(
    "hmc_fast/engine/fingerprint.py",
    "engine/test_fingerprint.py engine/test_runner.py -k 'resume or checkpoint or other'",
    ("not _same(name, stored[name], value)", "False"),
)
mutate(
    "hmc_fast/adaptation/warm_up.py",
    "adaptation/test_warm_up.py adaptation/test_decorrelation.py",
    ("(_scale(variance / self.inverse_mass) / _scale(variance / before)).sqrt()", "torch.ones(())"),
    ("self.draws.variance, self.gradients.variance,", "self.gradients.variance, self.draws.variance,"),
)
mutate(
    "hmc_fast/results/trace.py",
    "results/test_trace.py engine/test_loop.py",
    ("eligible % self.thin == 0", "eligible % self.thin == 1"),
    ("iteration, eligible = self.burn_in, 0", "iteration, eligible = self.burn_in - 1, 0"),
    ('np.where(iteration < burn_in, "burn_in"', 'np.where(iteration <= burn_in, "burn_in"'),
    (
        "self.log_likelihood + self.log_prior)",
        "self.log_likelihood - self.log_prior)",
        "results/test_run.py results/test_diagnosis.py",
    ),
    ("getattr(self, name)[: len(rows)] =", "getattr(self, name)[-len(rows) :] ="),
)
mutate(
    "hmc_fast/engine/loop.py",
    "engine/test_durability.py -k 'long or closes'",
    ("                self.save(kept)\n", "                self.save()\n"),
)
mutate(
    "hmc_fast/engine/loop.py",
    "engine/test_loop.py engine/test_runner.py engine/test_checkpoint.py",
    ("accepted[last + 1 : iteration + 1].any()", "accepted[iteration : iteration + 1].any()"),
    ("moved=bool(", "moved=False and bool("),
    ("warming_up = first < self.plan.burn_in", "warming_up = first <= self.plan.burn_in"),
    ("end = self.plan.burn_in if warming_up else len(self.trace)", "end = len(self.trace)"),
    ("bisect_left(self.kept, first + len(theta))", "bisect_left(self.kept, first) + 1"),
    ("self.trace.seconds[rows] = seconds / number", "self.trace.seconds[rows] = seconds"),
    ('self.saved_iteration = saved.numbers["iteration"]', 'self.saved_iteration = saved.numbers["iteration"] + 1'),
)
mutate(
    "hmc_fast/command_line.py",
    "test_command_line.py",
    ("        return 130\n", "        return 1\n"),
    ("    return 2\n", "    return 1\n"),
    ('name.replace("_", "-"), result[-1]', "name, result[-1]"),
)


# --- inputs that are damaged, hostile or out of range -----------------------------------------------------

mutate(
    "hmc_fast/checked_files.py",
    "fuzz/test_run_folders.py",
    ("ValueError, RecursionError) as error:", "ValueError,) as error:"),
    ("    if level:\n", "    if False:\n"),
    ("sum(info.file_size for info in held.values()) > _MOST_ARRAYS", "False"),
    ("tokenize.TokenError, ", "", "fuzz/test_loaders.py fuzz/test_resume.py"),
)
mutate(
    "hmc_fast/results/run_folder_reader.py",
    "fuzz/test_run_folders.py results/test_run_folder_reader.py",
    ("if not fits(value, kind | None) or", "if"),
    ("        except OverflowError as error:", "        except ZeroDivisionError as error:"),
    ('    for key in ("diagnosis", "diagnosis_kinds"):', "    for key in ():"),
    ("        if not fits(value, float):\n", "        if False:\n"),
)
mutate(
    "hmc_fast/datasets/idx.py",
    "fuzz/test_loaders.py datasets/test_idx.py",
    ("file.read(size + 1)", "file.read()", "fuzz/test_loaders.py -k bomb"),
    ("file.read(size + 1)", "file.read(size)"),
    ("math.prod(max(1, size) for size in sizes) > MOST_BYTES", "math.prod(sizes) > MOST_BYTES"),
    ("math.prod(max(1, size) for size in sizes) > MOST_BYTES", "False"),
)
mutate(
    "hmc_fast/datasets/fashion.py",
    "datasets/test_idx.py",
    ("if self.tell() + len(data) > MOST_BYTES:", "if False:"),
    ("if (found := _md5(path)) != digest:", "if (found := digest) != digest:"),
    ("    if not download:\n", "    if False:\n", "test_security.py"),
)
mutate(
    "hmc_fast/report/__main__.py",
    "test_security.py",
    ('if data is None and ":" in name:', "if False:"),
    (", download=False", ""),
)
mutate(
    "hmc_fast/report/html.py",
    "test_security.py",
    ("autoescape=True", "autoescape=False"),
)
mutate(
    "hmc_fast/atomic_files.py",
    "fuzz/test_run_folders.py",
    (', errors="backslashreplace"', ""),
)
mutate(
    "hmc_fast/datasets/uci.py",
    "fuzz/test_loaders.py fuzz/test_flags.py",
    ("except UnicodeDecodeError as error:", "except ZeroDivisionError as error:"),
    ("[\\w-]{1,100}", ".*"),
)
mutate(
    "hmc_fast/models/training.py",
    "fuzz/test_loaders.py",
    ("tensors[name].dtype.is_floating_point != wanted[name].dtype.is_floating_point", "False"),
)
mutate(
    "hmc_fast/results/trace.py",
    "results/test_trace.py",
    ("before - 1 + self.thin", "before + self.thin"),
    ("        self._check(self.burn_in + self.draws * self.thin)\n", ""),
    ("            self._check(cycle.kept(before + self.draws * self.thin - 1) + 1)\n", ""),
    ("            self._check(iteration + 1)\n", ""),
    ("if needed > free:", "if needed > free + 1:"),
)
mutate(
    "hmc_fast/flag_values.py",
    "fuzz/test_flags.py",
    ("if kind is int and abs(value) > LARGEST:", "if False:"),
    ("len(part.encode()) > _LONGEST_NAME", "False"),
    ('if "\\0" in text or not _is_utf8(text):', "if not _is_utf8(text):"),
    ("        return abs(value) <= LARGEST\n", "        return True\n", "test_command_line.py"),
)
mutate(
    "hmc_fast/dynamics/integrators.py",
    "fuzz/test_flags.py",
    ("if not num_leapfrog <= _MOST_LEAPFROG:", "if False:"),
)
mutate(
    "hmc_fast/results/draw_store.py",
    "fuzz/test_flags.py",
    ("(\\d{1,18}", "(\\d+"),
)
mutate(
    "hmc_fast/engine/storage.py",
    "fuzz/test_flags.py",
    ("if ring > (free := free_memory(target.device)):", "if (free := free_memory(target.device)) < 0:"),
)
mutate(
    "hmc_fast/engine/execution.py",
    "fuzz/test_resume.py engine/test_execution.py",
    ("isinstance(times, dict) and", ""),
    ("and seconds > 0 for", "for"),
)
mutate(
    "hmc_fast/experiments/run_cache.py",
    "fuzz/test_resume.py fuzz/test_flags.py experiments/test_run_cache.py",
    ("        except Unreadable as error:", "        except ZeroDivisionError as error:"),
    ("if not fits(value := metrics.get(name), kind):", "if (value := 0):"),
    ("if (probs := read_npy(path)).shape == shape:", "if len((probs := read_npy(path)).shape):"),
    ("            if value > _MOST_REPETITIONS:\n", "            if False:\n"),
)
mutate(
    "hmc_fast/models/__init__.py",
    "fuzz/test_flags.py",
    ("    if 4 * 4 * weights > free:\n", "    if False:\n"),
)
mutate(
    "hmc_fast/presets/build.py",
    "fuzz/test_flags.py",
    ("    if needed > free:\n", "    if False:\n"),
)
mutate(
    "hmc_fast/presets/resolve.py",
    "fuzz/test_resume.py",
    ("if setting not in config or not fits(config[setting], kind):", "if setting not in config:"),
    ("if not (isinstance(name, str) and name in SAMPLERS):", "if name not in SAMPLERS:"),
)
mutate(
    "hmc_fast/command_line.py",
    "test_command_line.py",
    ("        if _is_out_of_memory(error):\n", "        if False:\n"),
    ("if isinstance(error, OSError) and error.filename is not None:", "if False:"),
    (
        "re.sub(r\"'([^']{40})[^']{260,}'\", r\"'\\1...'\", \" \".join(message.split()))",
        '" ".join(message.split())',
    ),
)

# --- training ------------------------------------------------------------------------------------------------

ENSEMBLE = "engine/test_ensemble.py"
START = "engine/test_trained_start.py"

mutate(
    "hmc_fast/engine/ensemble/optimisers.py",
    ENSEMBLE,
    ("(first + 1, first + 1 + len(rates)", "(first + 2, first + 2 + len(rates)"),
    ("(1 - unseen_squares).rsqrt()", "torch.ones_like(rates)"),
    ("1 - rates * self.weight_decay", "torch.ones_like(rates)"),
    ("        theta.mul_(kept)\n", ""),
    ("(square.sqrt() * scale + self._DAMPING)", "((square.sqrt() + self._DAMPING) * scale)"),
    (".add_(theta, alpha=self.weight_decay)", ""),
    ("momentum.mul_(self._MOMENTUM)", "momentum.mul_(0.0)"),
)
mutate(
    "hmc_fast/engine/ensemble/early_stopping.py",
    ENSEMBLE,
    ("(loss < self.loss) & ~stopped", "(loss < self.loss)"),
    ("(loss < self.loss) & ~stopped", "(loss <= self.loss) & ~stopped"),
    ("torch.where(better, 0, self.waited + ~stopped)", "self.waited + ~stopped"),
    ("torch.where(better[:, None], theta, self.best)", "theta"),
    ("self.waited >= self.patience", "self.waited > self.patience"),
)
mutate(
    "hmc_fast/engine/ensemble/held_out.py",
    ENSEMBLE,
    ("order[number:].sort()", "order.sort()"),  # members see what they are judged on
    ("max(1, round(share * num_data)) if share", "round(share * num_data) if share"),
    ("total - log_lik.double().sum(1)", "-log_lik.double().sum(1)"),
    ("is_right * part.num_data", "is_right"),
    ("permutation(seed, 0, 1,", "permutation(0, 0, 1,"),
)
mutate(
    "hmc_fast/engine/ensemble/members.py",
    ENSEMBLE,
    ("        return self._rows[positions]\n", "        return positions\n"),
    ("ascent * (-1 / target.num_data)", "ascent * (-1 / examples)"),
    ("ascent * (-1 / target.num_data)", "ascent * (1 / target.num_data)"),
    ("math.pi * steps / self._total", "math.pi * steps / self._total / 2"),
    ("            if uses_prior:\n", "            if False:\n"),
    ("        scratch.log_lik_sum.zero_()\n", ""),
    ("theta.clone(), Clock(device)", "theta, Clock(device)"),
)
mutate(
    "hmc_fast/engine/ensemble/training.py",
    ENSEMBLE,
    ("target if uses_prior else target.likelihood_alone()", "target"),
    ("members.theta if held_out is None else stopping.best", "members.theta"),
    ("                if state[3].all():\n", "                if False:\n"),
    ("members.theta.sum(1) + loss + train_loss", "members.theta.sum(1) + loss"),
    ("defined | ~in_training", "defined"),
    ("                    refuse_undefined_start(target, start)\n", ""),
    ("int(state[2].argmin())", "int(state[2].argmax())"),
    ("if rate * self._decay >= 1:", "if False:"),
)
mutate(
    "hmc_fast/targets/initial_states.py",
    ENSEMBLE,
    ("    with torch.random.fork_rng(devices=[]):\n", "    if True:\n"),
    ("host_seed(seed, FRESH, chain)", "host_seed(seed, FRESH, 0)"),
    ("host_seed(seed, FRESH, chain)", "host_seed(0, FRESH, chain)"),
    ("    if not found:\n", "    if False:\n"),
)
mutate(
    "hmc_fast/engine/trained_start.py",
    START,
    ('if saved.fingerprint.get("training") != training.fingerprint():', "if False:"),
    ('if saved.fingerprint.get("chains") != chains:', "if False:"),
    ('if digest(members) != saved.fingerprint.get("initial parameters"):', "if False:"),
)
mutate(
    "hmc_fast/engine/runner.py",
    START,
    ("        if training is not None and saved is not None:\n", "        if False:\n"),
    ("            sampler.init(target, theta, seed=seed, warm_up_iterations=burn_in)\n", ""),
    ("            output.write_members(theta.cpu().numpy())\n", ""),
    ("            _begin(output, target, config)\n            theta", "            theta"),
)
mutate(
    "hmc_fast/engine/output.py",
    START,
    ("issubclass(kind, Exception) and not self._has_checkpoint", "False"),
)
mutate(
    "hmc_fast/engine/fingerprint.py",
    START,
    ('"training": None if training is None else training.fingerprint(),', '"training": None,'),
)
mutate(
    "hmc_fast/presets/resolve.py",
    "test_sample.py -k training",
    ('if name in changes and changes.get("init", run.settings.init) != "train":', "if False:"),
)
