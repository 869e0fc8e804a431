/**
 * A transaction slot (section 7.1 of `formats.md`): who runs a transaction, and below which commit nothing may be
 * forgotten because of it. 128 bytes, little-endian, seen by all processes of a database.
 *
 * **Details**
 *
 * 1. The first word decides whose slot it is, alone. It changes by compare-and-swap only, from 0 to a claim, from there
 *    to a transaction id, from either to a cleaning, from that to 0.
 * 2. Its two top bits are the tag. Without one, what is below is a transaction id, which is never used twice. Under
 *    `claiming` and `cleaning` it is a process, pid and birth ({@link processBits}): the very step that takes the slot
 *    says who has taken it, so there is no moment in which the death of the taker could not be found out.
 * 3. The other words belong to whoever the first one names, and to nobody while it is 0; then they are zero.
 * 4. The transaction id stands in the word at 80 too, where it is found while a tag hides it (`cleanup txn id`).
 *
 * `internal/transactionSlots.ts` has the steps, and why they are safe.
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import type { TxnId } from "@tidemark/core/Scalars"
import { CommitSeq, toCommitSeq } from "@tidemark/core/Scalars"
import type { ProcessIdentity } from "@tidemark/platform/ProcessLiveness"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { slotBytes } from "./SharedHeaderFormat.ts"

/**
 * Bytes of a slot.
 *
 * @category constants
 * @since 0.1.0
 */
export const transactionSlotBytes = slotBytes.transaction

/**
 * The 64-bit words of a slot: what is smaller than a word is changed with its whole word.
 *
 * @category constants
 * @since 0.1.0
 */
export const words = {
  /** Tag and transaction id, or tag and process: {@link toTag}. */
  holder: 0,
  /** Epoch in the low half, pid in the high one: {@link toOwnerWord}. */
  owner: 8,
  birth: 16,
  leaseExpiry: 24,
  beginSeq: 32,
  commitSeq: 40,
  snapshotHigh: 48,
  /** State, mode, witness epoch: {@link toStateWord}. */
  state: 56,
  /** Conflict flags, abort mark, pages of the write set: {@link toFlagsWord}. */
  flags: 64,
  claimingTime: 72,
  cleanupTxnId: 80,
  zero: 88
} as const

/** Fields that are smaller than a word, for the issues. */
const fields = { mode: 57, zero1: 58, hasInRw: 64, hasOutRw: 65, zero2: 67 } as const

const tagShift = 62n
const low62 = (1n << tagShift) - 1n
const low32 = 0xffffffffn
const low30 = 0x3fffffffn

const tags = { live: 0n, claiming: 1n, cleaning: 2n } as const

const states = ["free", "active", "committing", "committed", "aborted"] as const
const modes = ["serialized", "concurrent"] as const

/**
 * What has become of the transaction.
 *
 * @category models
 * @since 0.1.0
 */
export type TransactionState = (typeof states)[number]

/**
 * How it commits: beside others, or as the only one (CO-12).
 *
 * @category models
 * @since 0.1.0
 */
export type TransactionMode = (typeof modes)[number]

/**
 * Who has the slot: nobody, a process that is about to begin a transaction, a transaction, or a process that cleans up.
 * `"unknown"` is a tag that does not exist.
 *
 * @category models
 * @since 0.1.0
 */
export type SlotTag = "free" | "live" | "claiming" | "cleaning" | "unknown"

/**
 * The tag of a first word.
 *
 * @category decoding
 * @since 0.1.0
 */
export const toTag = (holder: bigint): SlotTag => {
  if (holder === 0n) return "free"
  const tag = holder >> tagShift
  return tag === tags.live
    ? "live"
    : tag === tags.claiming
    ? "claiming"
    : tag === tags.cleaning
    ? "cleaning"
    : "unknown"
}

/**
 * A process in 62 bits: the pid, and the low 30 bits of its birth above it. Two processes with the same pid have the
 * same bits when they were born exactly 2^30 ticks apart, 124 days.
 *
 * @category encoding
 * @since 0.1.0
 */
export const processBits = ({ birth, pid }: ProcessIdentity): bigint => ((birth & low30) << 32n) | BigInt(pid)

/**
 * The first word of a slot that this process is about to begin a transaction in.
 *
 * @category encoding
 * @since 0.1.0
 */
export const claimingWord = (process: ProcessIdentity): bigint => (tags.claiming << tagShift) | processBits(process)

/**
 * The first word of a slot that this process empties.
 *
 * @category encoding
 * @since 0.1.0
 */
export const cleaningWord = (process: ProcessIdentity): bigint => (tags.cleaning << tagShift) | processBits(process)

/**
 * The process that a first word under a tag names. `birth` is the word at 16: it counts when it is this process's, and
 * is 0, unknown, when it is not written yet or still somebody else's.
 *
 * @category decoding
 * @since 0.1.0
 */
export const processOf = (holder: bigint, birth: bigint): ProcessIdentity => ({
  pid: Number(holder & low32),
  birth: (birth & low30) === ((holder & low62) >> 32n) ? birth : 0n
})

/**
 * Whether a first word under a tag names an earlier process with the pid of this one. That one is dead, although its pid
 * lives: in a container every start of a program may get the same. `false` where births are not known.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isPredecessor = (holder: bigint, self: ProcessIdentity): boolean =>
  self.birth !== 0n && (holder & low32) === BigInt(self.pid) && (holder & low62) !== processBits(self)

/**
 * @category encoding
 * @since 0.1.0
 */
export const toOwnerWord = ({ epoch, pid }: { readonly epoch: number; readonly pid: number }): bigint =>
  (BigInt(pid) << 32n) | BigInt(epoch)

/**
 * @category decoding
 * @since 0.1.0
 */
export const fromOwnerWord = (word: bigint): { readonly epoch: number; readonly pid: number } => ({
  epoch: Number(word & low32),
  pid: Number(word >> 32n)
})

/**
 * @category encoding
 * @since 0.1.0
 */
export const toStateWord = (value: {
  readonly state: TransactionState
  readonly mode: TransactionMode
  readonly witnessEpoch: number
}): bigint =>
  (BigInt(value.witnessEpoch) << 32n) | BigInt((modes.indexOf(value.mode) << 8) | states.indexOf(value.state))

/**
 * What the word at 64 says.
 *
 * @category models
 * @since 0.1.0
 */
export interface SlotFlags {
  /** Somebody reads what this transaction overwrites. */
  readonly hasInRw: boolean
  /** This transaction has read what somebody overwrites. */
  readonly hasOutRw: boolean
  /** 0: no mark; else {@link abortMarkOf} the transaction that was meant. */
  readonly abortMark: number
  readonly writeSetPages: number
}

/**
 * @category encoding
 * @since 0.1.0
 */
export const toFlagsWord = (flags: SlotFlags): bigint =>
  (BigInt(flags.writeSetPages) << 32n) |
  BigInt((flags.abortMark << 16) | (flags.hasOutRw ? 0x100 : 0) | (flags.hasInRw ? 1 : 0))

/**
 * @category decoding
 * @since 0.1.0
 */
export const fromFlagsWord = (word: bigint): SlotFlags => ({
  hasInRw: (word & 0xffn) !== 0n,
  hasOutRw: ((word >> 8n) & 0xffn) !== 0n,
  abortMark: Number((word >> 16n) & 0xffn),
  writeSetPages: Number(word >> 32n)
})

/**
 * The mark that tells this transaction to abort: 1 ... 255. It depends on the id, so that a mark which arrives when the
 * slot belongs to the next transaction already does not mean that one.
 *
 * @category encoding
 * @since 0.1.0
 */
export const abortMarkOf = (id: bigint): number => 1 + Number(id % 255n)

const U32 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))
const U8 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xff }))
const U62 = Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: low62 }))
const U64 = Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: 2n ** 64n - 1n }))

/**
 * What a slot says.
 *
 * @category models
 * @since 0.1.0
 */
export const TransactionSlot = Schema.Struct({
  tag: Schema.Literals(["free", "live", "claiming", "cleaning"]),
  /** Below the tag: 0 when free, the transaction id when live, {@link processBits} when claiming or cleaning. */
  holder: U62,
  epoch: U32,
  pid: U32,
  birth: U64,
  /** 0: no lease set. */
  leaseExpiryUnixSeconds: U64,
  /** Nothing that was committed up to here may be forgotten while the slot is live. */
  beginSeq: Schema.toType(CommitSeq),
  /** Of the commit that is being made, 0 before. */
  commitSeq: Schema.toType(CommitSeq),
  snapshotHigh: Schema.toType(CommitSeq),
  state: Schema.Literals(states),
  mode: Schema.Literals(modes),
  /** Unused in version 1 of the header: 0. */
  witnessEpoch: U32,
  hasInRw: Schema.Boolean,
  hasOutRw: Schema.Boolean,
  abortMark: U8,
  writeSetPages: U32,
  claimingUnixSeconds: U64,
  /** The transaction, also while a tag hides it; 0 before it has an id. */
  cleanupTxnId: U64
})
export type TransactionSlot = typeof TransactionSlot.Type

const refuse = (code: string, field: string, offset: number, found: string, expected: string) =>
  Result.fail(new FormatIssue({ format: "transaction slot", code, field, offset, found, expected }))

/**
 * Reads a slot.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort`, `TooLong`, `UnknownTag`, `NobodyUnderTag` (a tag over nothing),
 * `UnknownState`, `UnknownMode`, `BadFlag` (neither 0 nor 1), `NotZero` (a field that has to be zero). What the other
 * fields of a free slot say is not looked at further: it means nothing.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<TransactionSlot, FormatIssue> => {
  if (bytes.length !== transactionSlotBytes) {
    const code = bytes.length < transactionSlotBytes ? "TooShort" : "TooLong"
    return refuse(code, "length", 0, `${bytes.length} bytes`, `${transactionSlotBytes} bytes`)
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const word = (offset: number) => view.getBigUint64(offset, true)
  const holderWord = word(words.holder)
  const tag = toTag(holderWord)
  if (tag === "unknown") return refuse("UnknownTag", "tag", words.holder, `${holderWord >> tagShift}`, "0, 1 or 2")
  const holder = holderWord & low62
  if (holder === 0n && tag !== "free") {
    return refuse("NobodyUnderTag", "transaction id", words.holder, `0 under tag ${tag}`, "a process")
  }
  const stateNumber = view.getUint8(words.state)
  const state = states[stateNumber]
  if (state === undefined) return refuse("UnknownState", "state", words.state, `${stateNumber}`, "0 ... 4")
  const modeNumber = view.getUint8(fields.mode)
  const mode = modes[modeNumber]
  if (mode === undefined) return refuse("UnknownMode", "mode", fields.mode, `${modeNumber}`, "0 or 1")
  for (const [field, offset] of [["has-in-rw", fields.hasInRw], ["has-out-rw", fields.hasOutRw]] as const) {
    const flag = view.getUint8(offset)
    if (flag > 1) return refuse("BadFlag", field, offset, `${flag}`, "0 or 1")
  }
  const zero1 = view.getUint16(fields.zero1, true)
  if (zero1 !== 0) return refuse("NotZero", "zero field", fields.zero1, `${zero1}`, "0")
  const zero2 = view.getUint8(fields.zero2)
  if (zero2 !== 0) return refuse("NotZero", "zero field", fields.zero2, `${zero2}`, "0")
  for (let offset: number = words.zero; offset < transactionSlotBytes; offset += 8) {
    if (word(offset) !== 0n) return refuse("NotZero", "padding", offset, `0x${word(offset).toString(16)}`, "zeros")
  }
  return Result.succeed({
    tag,
    holder,
    ...fromOwnerWord(word(words.owner)),
    birth: word(words.birth),
    leaseExpiryUnixSeconds: word(words.leaseExpiry),
    beginSeq: toCommitSeq(word(words.beginSeq)),
    commitSeq: toCommitSeq(word(words.commitSeq)),
    snapshotHigh: toCommitSeq(word(words.snapshotHigh)),
    state,
    mode,
    witnessEpoch: view.getUint32(words.state + 4, true),
    ...fromFlagsWord(word(words.flags)),
    claimingUnixSeconds: word(words.claimingTime),
    cleanupTxnId: word(words.cleanupTxnId)
  })
}

/**
 * The 128 bytes of a slot. For memory that nobody else sees: a slot in shared memory is changed word by word.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (slot: TransactionSlot): Uint8Array => {
  invariant((slot.tag === "free") === (slot.holder === 0n), "a slot has a holder unless it is free")
  const bytes = new Uint8Array(transactionSlotBytes)
  const view = new DataView(bytes.buffer)
  const word = (offset: number, value: bigint) => {
    view.setBigUint64(offset, value, true)
  }
  word(words.holder, slot.tag === "free" ? 0n : (tags[slot.tag] << tagShift) | slot.holder)
  word(words.owner, toOwnerWord(slot))
  word(words.birth, slot.birth)
  word(words.leaseExpiry, slot.leaseExpiryUnixSeconds)
  word(words.beginSeq, slot.beginSeq)
  word(words.commitSeq, slot.commitSeq)
  word(words.snapshotHigh, slot.snapshotHigh)
  word(words.state, toStateWord(slot))
  word(words.flags, toFlagsWord(slot))
  word(words.claimingTime, slot.claimingUnixSeconds)
  word(words.cleanupTxnId, slot.cleanupTxnId)
  return bytes
}

/**
 * The slot as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const TransactionSlotFromBytes: Schema.Codec<TransactionSlot, Uint8Array> = toCodec<TransactionSlot>(
  TransactionSlot,
  { decode, encode }
)

/**
 * The transaction of a slot, by its id; `undefined` when it has none (yet).
 *
 * @category accessors
 * @since 0.1.0
 */
export const transactionOf = (slot: TransactionSlot): TxnId | undefined => {
  const id = slot.tag === "live" ? slot.holder : slot.tag === "free" ? 0n : slot.cleanupTxnId
  // 1 ... 2^62 - 1 is what a transaction id is.
  return id >= 1n && id <= low62 ? id as TxnId : undefined
}
