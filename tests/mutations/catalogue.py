"""What is broken on purpose: one small change each, named after the harm it does."""

from __future__ import annotations

from tests.mutations.inference import INFERENCE_MUTATIONS
from tests.mutations.membership import MEMBERSHIP_MUTATIONS
from tests.mutations.mutation import Mutation

SECAGG = "primia/secagg/"
PROTOCOL = "primia/protocol/"


MUTATIONS = (
    # --- keys ---
    Mutation(
        "mask keys forget the session",
        SECAGG + "keys.py",
        "return _hkdf(secret, session, context)\n\n\ndef self_mask_key",
        "return _hkdf(secret, bytes(32), context)\n\n\ndef self_mask_key",
    ),
    Mutation(
        "all vectors of a pair share one mask key",
        SECAGG + "keys.py",
        "return cipher.encode(), vector.name.encode(), length, bits",
        "return cipher.encode(), length, bits",
    ),
    Mutation(
        "pair mask keys depend on who asks",
        SECAGG + "keys.py",
        "low, high = sorted((one, other))",
        "low, high = one, other",
    ),
    Mutation(
        "self mask keys forget the owner",
        SECAGG + "keys.py",
        "context = framed(_SELF_MASK, owner.encode(), *_purpose(vector, cipher))",
        "context = framed(_SELF_MASK, *_purpose(vector, cipher))",
    ),
    Mutation(
        "small-order keys are let through",
        SECAGG + "keys.py",
        'raise PeerError("a peer\'s X25519 key is malformed or of small order; drop it") from err',
        "return bytes(32)",
    ),
    Mutation(
        "any private key matches",
        SECAGG + "keys.py",
        "return hmac.compare_digest(key_pair(private).public, public)",
        "return True",
    ),
    Mutation(
        "any seed opens a commitment",
        SECAGG + "keys.py",
        "return hmac.compare_digest(commit_to_seed(seed, owner=owner), commitment)",
        "return True",
    ),
    Mutation(
        "lists of names can collide",
        SECAGG + "keys.py",
        'return b"".join(len(part).to_bytes(4, "big") + part for part in parts)',
        'return b"".join(parts)',
    ),
    # --- masks ---
    Mutation(
        "half of the key drives the mask",
        SECAGG + "masks.py",
        "return Cipher(AES256(key), GCM(nonce)).encryptor()",
        "return Cipher(AES256(key[:16] * 2), GCM(nonce)).encryptor()",
    ),
    Mutation(
        "one chunk of mask is used over and over",
        SECAGG + "masks.py",
        'nonce = chunk.to_bytes(12, "big")\n    if cipher == AES:\n        return',
        "nonce = bytes(12)\n    if cipher == AES:\n        return",
    ),
    Mutation(
        "the sign of a pair is not opposite",
        SECAGG + "masks.py",
        "return Mask(key, subtract=me > peer)",
        "return Mask(key, subtract=False)",
    ),
    Mutation(
        "taking a mask off puts it on",
        SECAGG + "masks.py",
        "return Mask(self.key, not self.subtract)",
        "return Mask(self.key, self.subtract)",
    ),
    # --- encoding and packing ---
    Mutation(
        "values beyond the range wrap",
        SECAGG + "encoding.py",
        "    np.clip(chunk, -limit, limit, out=chunk)\n    return outside",
        "    return outside",
    ),
    Mutation(
        "stochastic rounding only rounds down",
        SECAGG + "encoding.py",
        "chunk += dither.uniform(start // CHUNK, chunk.size)",
        "pass",
    ),
    Mutation(
        "sums of 24 bits lose their sign",
        SECAGG + "encoding.py",
        "unused = 32 - ring_bits",
        "unused = 0",
    ),
    Mutation(
        "a sum out of bounds is believed",
        SECAGG + "encoding.py",
        "int(signed.max()) > bound or int(signed.min()) < -bound",
        "int(signed.max()) > bound",
    ),
    Mutation(
        "one site too many fits the ring",
        SECAGG + "encoding.py",
        "return sites * largest(bits) <= largest(ring_bits)",
        "return (sites - 1) * largest(bits) <= largest(ring_bits)",
    ),
    Mutation(
        "the high plane is not sent",
        SECAGG + "packing.py",
        "high[here] = np.right_shift(part[here], 16, out=spare[: part[here].size])",
        "pass",
    ),
    Mutation(
        "an upload of another length is folded",
        SECAGG + "packing.py",
        "if given != layout.wire_bytes:",
        "if given < layout.wire_bytes:",
    ),
    # --- shares and sealing ---
    Mutation(
        "one share less opens a secret",
        SECAGG + "shares.py",
        "for i in range(0, len(entropy), _COEFFICIENT_BYTES)",
        "for i in range(_COEFFICIENT_BYTES, len(entropy), _COEFFICIENT_BYTES)",
    ),
    Mutation(
        "a rebuilt secret is not checked",
        SECAGG + "shares.py",
        "if accept(found):",
        "if True:",
    ),
    Mutation(
        "wrong shares are not named",
        SECAGG + "shares.py",
        "return secret, named[0] if len(named) == 1 else frozenset()",
        "return secret, frozenset()",
    ),
    Mutation(
        "sealed shares may change hands",
        SECAGG + "sealing.py",
        "return framed(_KIND, session, sender.encode(), receiver.encode())",
        "return framed(_KIND, session)",
    ),
    Mutation(
        "a share that is no field element is taken",
        SECAGG + "shares.py",
        "if len(share) != SHARE_BYTES or value >= PRIME:",
        "if len(share) != SHARE_BYTES:",
    ),
    # --- the graph ---
    Mutation(
        "the ring is the same in every session",
        SECAGG + "topology.py",
        "framed(_ORDER, self.session, site.encode())",
        "framed(_ORDER, site.encode())",
    ),
    Mutation(
        "a ring holds one share too few",
        SECAGG + "topology.py",
        "t = max((degree + 1 + around) // 2 + 2, degree // 2 + 2 + beside)",
        "t = max((degree + 1 + around) // 2 + 2, degree // 2 + 1 + beside)",
    ),
    Mutation(
        "a ring can be cut in two",
        SECAGG + "topology.py",
        "t = max((degree + 1 + around) // 2 + 2, degree // 2 + 2 + beside)",
        "t = (degree + 1 + around) // 2 + 2",
    ),
    Mutation(
        "a group of any size is summed with three left",
        SECAGG + "topology.py",
        "if len(left) < threshold(len(group)):",
        "if len(left) < 3:",
    ),
    Mutation(
        "a simple majority opens a secret",
        SECAGG + "topology.py",
        "return 2 * sites // 3 + 1",
        "return sites // 2 + 1",
    ),
    Mutation(
        "groups mask with everybody",
        SECAGG + "topology.py",
        "if self.group_count == 1 else self.groups[self.group_of(site)]",
        "if True else self.groups[self.group_of(site)]",
    ),
    # --- statements ---
    Mutation(
        "signed keys forget the cohort",
        PROTOCOL + "session.py",
        "return framed(_ADVERT, round_bytes(advert.round), _digest(cohort), _public_part(advert))",
        "return framed(_ADVERT, round_bytes(advert.round), _public_part(advert))",
    ),
    Mutation(
        "rounds on another model look alike",
        PROTOCOL + "session.py",
        "        round_id.model.encode(),\n",
        "",
    ),
    Mutation(
        "signed survivors forget who masked",
        PROTOCOL + "session.py",
        "return framed(_SURVIVORS, session, _names(masked_among), _names(survivors))",
        "return framed(_SURVIVORS, session, _names(survivors))",
    ),
    # --- the site ---
    Mutation(
        "a site believes unsigned keys",
        PROTOCOL + "site.py",
        "if not self._verify(advert.site, advert_statement(advert, self._cohort), "
        "advert.signature):",
        "if False:",
    ),
    Mutation(
        "a site lets its own keys be changed",
        PROTOCOL + "site.py",
        "if advert != self._advert:",
        "if False:",
    ),
    Mutation(
        "a site makes keys for an attempt twice",
        PROTOCOL + "site.py",
        "if self.round.attempt <= self._last_attempt:",
        "if self.round.attempt < self._last_attempt:",
    ),
    Mutation(
        "a site's own floor is forgotten",
        PROTOCOL + "site.py",
        "self._floor = max(floor, plan_floor)",
        "self._floor = SMALLEST_COHORT",
    ),
    Mutation(
        "a site takes a second, different instruction",
        PROTOCOL + "site.py",
        "            if earlier == instruction:\n                return commands\n",
        "            return commands\n",
    ),
    Mutation(
        "a site reveals without enough signatures",
        PROTOCOL + "site.py",
        "if not set(signatures) <= set(self._survivors) or len(signatures) < needed:",
        "if not set(signatures) <= set(self._survivors):",
    ),
    Mutation(
        "a site counts signatures of strangers",
        PROTOCOL + "site.py",
        "if not set(signatures) <= set(self._survivors) or len(signatures) < needed:",
        "if len(signatures) < needed:",
    ),
    Mutation(
        "a site does not check the survivors' signatures",
        PROTOCOL + "site.py",
        "            if not self._verify(site, statement, signature):\n"
        '                raise PeerError(f"{site} did not sign',
        '            if False:\n                raise PeerError(f"{site} did not sign',
    ),
    Mutation(
        "a site opens neighbours that masked among others",
        PROTOCOL + "site.py",
        "        self._check_masked(session, set(alive) - {self.me}, masked)\n",
        "",
    ),
    Mutation(
        "a site may leave out neighbours that masked among others",
        PROTOCOL + "site.py",
        "if set(masked) != set(alive):",
        "if not set(masked) <= set(alive):",
    ),
    Mutation(
        "mask partners are signed for any session",
        PROTOCOL + "session.py",
        "return framed(_PARTNERS, session, _names(masked_among))",
        "return framed(_PARTNERS, _names(masked_among))",
    ),
    Mutation(
        "the coordinator folds vectors of unknown mask partners",
        PROTOCOL + "coordinator.py",
        "if site not in self._masked:",
        "if False:",
    ),
    Mutation(
        "a site keeps its shares after revealing",
        PROTOCOL + "site.py",
        "        self._secrets = None  # each peer was opened one way; the other way is gone for "
        "good\n",
        "",
    ),
    Mutation(
        "a site signs for one update twice",
        PROTOCOL + "site.py",
        "if self._signed_before is not None and self._signed_before != set(survivors):",
        "if False:",
    ),
    Mutation(
        "a site signs a list without itself",
        PROTOCOL + "site.py",
        "if self.me not in names:",
        "if False:",
    ),
    Mutation(
        "a site sees no difference between sessions",
        PROTOCOL + "site.py",
        "if self._topology is None or session != self._topology.session:",
        "if self._topology is None:",
    ),
    Mutation(
        "a site signs for a group that lost too many",
        PROTOCOL + "site.py",
        "        short = topology.short_group(names)\n",
        "        short = None\n",
    ),
    Mutation(
        "a site masks with too few neighbours",
        PROTOCOL + "site.py",
        "if len(near) < topology.threshold:",
        "if False:",
    ),
    Mutation(
        "unclamped keys match",
        SECAGG + "keys.py",
        "    if clamp(private) != private:\n        return False\n",
        "",
    ),
    Mutation(
        "a site masks without its own mask",
        PROTOCOL + "site_secrets.py",
        "masks = [Mask(own)]",
        "masks = [Mask(own, False), Mask(own, True)]",
    ),
    Mutation(
        "a site remembers no survivors",
        PROTOCOL + "site.py",
        "            Remember(SurvivorsSigned(self.round, session, survivors)),\n",
        "",
    ),
    # --- the coordinator ---
    Mutation(
        "the coordinator folds an upload twice",
        PROTOCOL + "coordinator.py",
        "            self._refuse_unless_same(UpdateArrived, site, digest)\n"
        "            return False\n",
        "            pass\n",
    ),
    Mutation(
        "the coordinator believes unsigned keys",
        PROTOCOL + "answers.py",
        "if not verify(site, advert_statement(advert, cohort), advert.signature):",
        "if False:",
    ),
    Mutation(
        "the coordinator believes any survivor signature",
        PROTOCOL + "answers.py",
        "    if not exchange.verify(site, statement, answer.signature):\n"
        '        raise PeerError(f"survivor list',
        '    if False:\n        raise PeerError(f"survivor list',
    ),
    Mutation(
        "the coordinator goes on below the quorum",
        PROTOCOL + "coordinator.py",
        "            case Phase.TRAINING:\n                return quorum\n",
        "            case Phase.TRAINING:\n                return SMALLEST_COHORT\n",
    ),
    Mutation(
        "the coordinator asks a part of those that may have signed",
        PROTOCOL + "coordinator.py",
        "        if self._splits_a_promise:\n",
        "        if False:\n",
    ),
    Mutation(
        "lost sites' masks stay in the sum",
        PROTOCOL + "unmasking.py",
        "    for lost, secrets in pairs.items():",
        "    for lost, secrets in list(pairs.items())[1:]:",
    ),
    Mutation(
        "one wrong share ends the round though others may come",
        PROTOCOL + "coordinator.py",
        "            if self._answered < self._expected and not self._time_is_up(now):\n"
        "                return []\n"
        "            return self._abort(str(err))\n",
        "            return self._abort(str(err))\n",
    ),
    Mutation(
        "the coordinator keeps revealed shares",
        PROTOCOL + "coordinator.py",
        "        self._revealed.clear()\n",
        "",
    ),
    *INFERENCE_MUTATIONS,
    *MEMBERSHIP_MUTATIONS,
)
