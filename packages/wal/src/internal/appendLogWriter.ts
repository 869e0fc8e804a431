/**
 * Handing records over: the way that every append takes, which has to be short.
 *
 * One hand-over is one synchronous step: room is asked for, the range is reserved, the frames are written into the
 * engine's buffer and the waiter is left there. Its fiber is resumed once. Request and waiter are one object, the only
 * one that an append makes beside what it answers and what an `Effect.callback` is made of.
 */
import { invariant } from "@tidemark/core/Invariant"
import { toLsn } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type { Appended, AppendError, AppendLog, AppendUntil, LogReservation } from "../AppendLog.ts"
import { frameHeadBytes, recordFrameBytes, writeRecordFrame } from "../AppendLogFormat.ts"
import type { Admission, CommitMode, GroupCommit, HandOverWaiter, LogEnded } from "../GroupCommit.ts"
import { EmptyRecord, RecordTooLarge } from "../LogErrors.ts"
import * as TransactionRecordFormat from "../TransactionRecordFormat.ts"
import type { Fill } from "./runQueue.ts"

type Resume<A> = (exit: Exit.Exit<A, LogEnded>) => void

/** A writer is woken when its position is covered, and that comes after it was handed over. */
const tooEarly = Exit.die(new Error("a writer was woken before its records were handed over"))

/** A request to hand over: first it stands in line for room, then its writer waits for what was promised. */
abstract class HandOver<Payload, Result> implements Admission, HandOverWaiter {
  readonly length: number
  readonly mode: CommitMode
  protected readonly writer: AppendLogWriter
  private readonly isAppendOnly: boolean
  /** Until it has entered or was refused; dropped then, so that nobody's bytes are kept alive by a wait for a sync. */
  private payload: Payload | undefined
  private readonly resume: Resume<Result>
  private outcome: Exit.Exit<Result, LogEnded> = tooEarly

  constructor(
    writer: AppendLogWriter,
    payload: Payload,
    length: number,
    until: AppendUntil,
    resume: Resume<Result>
  ) {
    this.writer = writer
    this.payload = payload
    this.length = length
    this.isAppendOnly = until === "appended"
    this.mode = until === "written" ? "written" : "durable"
    this.resume = resume
  }

  /** What writes the frames. */
  protected abstract fillWith(payload: Payload): Fill
  /** What the writer is told, when its frames begin at `start`. */
  protected abstract resultAt(start: number, payload: Payload): Result

  get isInLine(): boolean {
    return this.payload !== undefined
  }

  /** Called by the engine when there is room. What is thrown in here is this writer's defect, nobody else's. */
  enter(): void {
    const { isAppendOnly, length, payload, writer } = this
    invariant(payload !== undefined, "a hand-over enters once")
    this.payload = undefined
    try {
      const end = writer.engine.enqueueUnsafe(length, this.fillWith(payload), isAppendOnly ? undefined : this)
      this.outcome = Exit.succeed(this.resultAt(end - length, payload))
      writer.handedOver(end)
    } catch (defect) {
      return this.resume(Exit.die(defect))
    }
    if (isAppendOnly) this.resume(this.outcome)
  }

  refuse(ended: LogEnded): void {
    this.payload = undefined
    this.resume(Exit.fail(ended))
  }

  succeed(): void {
    this.resume(this.outcome)
  }

  fail(ended: LogEnded): void {
    this.resume(Exit.fail(ended))
  }
}

class RecordHandOver extends HandOver<Uint8Array, Appended> {
  protected fillWith(payload: Uint8Array): Fill {
    invariant(recordFrameBytes(payload.length) === this.length, "a payload keeps its length")
    this.writer.payload = payload
    return this.writer.fillWithPayload
  }

  protected resultAt(start: number): Appended {
    return { start: toLsn(start), end: toLsn(start + this.length) }
  }
}

class BatchHandOver extends HandOver<ReadonlyArray<Uint8Array>, ReadonlyArray<Appended>> {
  protected fillWith(payloads: ReadonlyArray<Uint8Array>): Fill {
    invariant(framesBytes(payloads) === this.length, "payloads keep their lengths")
    return (target, view, offset) => {
      let at = offset
      for (const payload of payloads) {
        writeRecordFrame(target, view, at, payload)
        at += recordFrameBytes(payload.length)
      }
    }
  }

  protected resultAt(start: number, payloads: ReadonlyArray<Uint8Array>): ReadonlyArray<Appended> {
    let end = start
    return payloads.map((payload) => {
      const recordStart = end
      end += recordFrameBytes(payload.length)
      return { start: toLsn(recordStart), end: toLsn(end) }
    })
  }
}

const framesBytes = (payloads: ReadonlyArray<Uint8Array>): number =>
  payloads.reduce((sum, payload) => sum + recordFrameBytes(payload.length), 0)

/** @internal */
export class AppendLogWriter {
  readonly engine: GroupCommit
  /** Behind the last record that was handed over or reserved. */
  lastRecordEnd: number
  /** Called when something was handed over. */
  onHandOver: () => void = () => {}
  /** What {@link fillWithPayload} writes: set and used in one step. */
  payload: Uint8Array = new Uint8Array(0)
  /** One function for all records. */
  readonly fillWithPayload: Fill = (target, view, offset) => writeRecordFrame(target, view, offset, this.payload)
  private readonly log: string
  private readonly maxRecordBytes: number

  constructor(engine: GroupCommit, log: string, maxRecordBytes: number, lastRecordEnd: number) {
    this.engine = engine
    this.log = log
    this.maxRecordBytes = maxRecordBytes
    this.lastRecordEnd = lastRecordEnd
  }

  readonly append: AppendLog["Service"]["append"] = (payload, options) => {
    const payloadBytes = payload.length
    const refusal = this.refuse(payloadBytes)
    if (refusal !== undefined) return refusal
    return Effect.callback((resume) => {
      const until = options?.until ?? "durable"
      return this.admit(new RecordHandOver(this, payload, recordFrameBytes(payloadBytes), until, resume))
    })
  }

  readonly appendAll: AppendLog["Service"]["appendAll"] = (payloads, options) =>
    Effect.suspend((): Effect.Effect<ReadonlyArray<Appended>, AppendError> => {
      if (payloads.some((payload) => payload.length === 0)) return Effect.fail(new EmptyRecord({ log: this.log }))
      const length = framesBytes(payloads)
      // Together not more than one record may take.
      const refusal = this.refuse(length - frameHeadBytes, recordFrameBytes(this.maxRecordBytes) - frameHeadBytes)
      if (refusal !== undefined) return refusal
      const until = options?.until ?? "durable"
      return Effect.callback((resume) => this.admit(new BatchHandOver(this, payloads, length, until, resume)))
    })

  /** Asks for room; while it stands in line an interruption takes it out. */
  private admit(handOver: Admission & { readonly isInLine: boolean }): Effect.Effect<void> | undefined {
    const stepBack = this.engine.admit(handOver)
    return handOver.isInLine ? Effect.sync(stepBack) : undefined
  }

  readonly appendTransaction: AppendLog["Service"]["appendTransaction"] = (transaction, options) =>
    Effect.suspend(() => this.appendAll(transaction.map(TransactionRecordFormat.encode), options))

  readonly reserve = (payloadBytes: number): Effect.Effect<LogReservation, AppendError, Scope.Scope> => {
    const refusal = this.refuse(payloadBytes)
    if (refusal !== undefined) return refusal
    return Effect.map(this.engine.reserve(recordFrameBytes(payloadBytes)), ({ end, fill, start }) => {
      this.handedOver(end)
      return {
        start,
        end,
        fill: (payload) =>
          Effect.suspend(() => {
            invariant(payload.length === payloadBytes, "a reservation is filled with exactly the bytes reserved")
            const frame = new Uint8Array(recordFrameBytes(payloadBytes))
            writeRecordFrame(frame, new DataView(frame.buffer), 0, payload)
            return fill(frame)
          })
      }
    })
  }

  /** Positions of hand-overs grow; that of a reservation may be told late. */
  handedOver(end: number): void {
    if (end > this.lastRecordEnd) this.lastRecordEnd = end
    this.onHandOver()
  }

  private refuse(
    bytes: number,
    maxBytes = this.maxRecordBytes
  ): Exit.Exit<never, EmptyRecord | RecordTooLarge> | undefined {
    const { log, maxRecordBytes } = this
    // No records do not even have a head.
    if (bytes <= 0) return Exit.fail(new EmptyRecord({ log }))
    return bytes <= maxBytes ? undefined : Exit.fail(new RecordTooLarge({ log, bytes, maxRecordBytes }))
  }
}
