/**
 * Handing records over: the way that every append takes, which has to be short.
 *
 * One hand-over is one synchronous step: room is asked for, the range is reserved, the frames are written into the
 * engine's buffer and the waiter is left there. Its fiber is resumed once. A writer that finds the queue full stands in
 * line with the object that holds its request; as long as nobody has to, that object is used again by the next one.
 */
import { invariant } from "@tidemark/core/Invariant"
import { toLsn } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type { Appended, AppendError, AppendLog, AppendUntil, LogReservation } from "../AppendLog.ts"
import { frameHeadBytes, recordFrameBytes, writeRecordFrame } from "../AppendLogFormat.ts"
import type { Admission, GroupCommit, LogEnded } from "../GroupCommit.ts"
import { EmptyRecord, RecordTooLarge } from "../LogErrors.ts"
import * as TransactionRecordFormat from "../TransactionRecordFormat.ts"
import type { Fill } from "./runQueue.ts"

type Resume<A> = (exit: Exit.Exit<A, LogEnded>) => void

/** A writer is woken when its position is covered, and that comes after it was handed over. */
const tooEarly = Exit.die(new Error("a writer was woken before its records were handed over"))

/** A request to hand over. It is on its way from the moment it has a payload until it has entered or was refused. */
abstract class HandOver<Payload, Result> implements Admission {
  length = 0
  payload: Payload | undefined
  until: AppendUntil = "durable"
  resume: Resume<Result> = () => {}
  private readonly writer: AppendLogWriter

  constructor(writer: AppendLogWriter) {
    this.writer = writer
  }

  abstract readonly fill: Fill
  /** What the writer is told, when its frames begin at `start`. */
  abstract resultAt(start: number, payload: Payload): Result

  /** Called by the engine when there is room. What is thrown in here is this writer's defect, nobody else's. */
  readonly enter = (): void => {
    const { length, payload, resume, until, writer } = this
    invariant(payload !== undefined, "a hand-over enters once")
    let outcome: Exit.Exit<Result, LogEnded> = tooEarly
    try {
      const end = until === "appended"
        ? writer.engine.enqueueUnsafe(length, this.fill)
        : writer.engine.enqueueUnsafe(length, this.fill, {
          mode: until,
          succeed: () => resume(outcome),
          fail: (ended) => resume(Exit.fail(ended))
        })
      outcome = Exit.succeed(this.resultAt(end - length, payload))
      writer.handedOver(end)
    } catch (defect) {
      this.payload = undefined
      return resume(Exit.die(defect))
    }
    this.payload = undefined
    if (until === "appended") resume(outcome)
  }

  readonly refuse = (ended: LogEnded): void => {
    this.payload = undefined
    this.resume(Exit.fail(ended))
  }
}

class RecordHandOver extends HandOver<Uint8Array, Appended> {
  readonly fill: Fill = (target, view, offset) => {
    const { length, payload } = this
    invariant(payload !== undefined && recordFrameBytes(payload.length) === length, "a payload keeps its length")
    writeRecordFrame(target, view, offset, payload)
  }

  resultAt(start: number): Appended {
    return { start: toLsn(start), end: toLsn(start + this.length) }
  }
}

class BatchHandOver extends HandOver<ReadonlyArray<Uint8Array>, ReadonlyArray<Appended>> {
  readonly fill: Fill = (target, view, offset) => {
    const { length, payload = [] } = this
    let at = offset
    for (const record of payload) {
      const frameBytes = recordFrameBytes(record.length)
      invariant(at + frameBytes <= offset + length, "the payloads keep their lengths")
      writeRecordFrame(target, view, at, record)
      at += frameBytes
    }
    invariant(at === offset + length, "the payloads keep their lengths")
  }

  resultAt(start: number, payloads: ReadonlyArray<Uint8Array>): ReadonlyArray<Appended> {
    let end = start
    return payloads.map((payload) => {
      const recordStart = end
      end += recordFrameBytes(payload.length)
      return { start: toLsn(recordStart), end: toLsn(end) }
    })
  }
}

/** @internal */
export class AppendLogWriter {
  readonly engine: GroupCommit
  /** Behind the last record that was handed over or reserved. */
  lastRecordEnd: number
  /** Called when something was handed over. */
  onHandOver: () => void = () => {}
  private readonly log: string
  private readonly maxRecordBytes: number
  private nextRecord = new RecordHandOver(this)

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
      const request = this.nextRecord
      request.length = recordFrameBytes(payloadBytes)
      request.payload = payload
      request.until = options?.until ?? "durable"
      request.resume = resume
      const stepBack = this.engine.admit(request)
      if (request.payload === undefined) return
      // It stands in line: it is not to be used by anybody else.
      this.nextRecord = new RecordHandOver(this)
      return Effect.sync(stepBack)
    })
  }

  readonly appendAll: AppendLog["Service"]["appendAll"] = (payloads, options) =>
    Effect.suspend((): Effect.Effect<ReadonlyArray<Appended>, AppendError> => {
      let length = 0
      for (const payload of payloads) {
        if (payload.length === 0) return Effect.fail(new EmptyRecord({ log: this.log }))
        length += recordFrameBytes(payload.length)
      }
      // Together not more than one record may take.
      const refusal = this.refuse(length - frameHeadBytes, recordFrameBytes(this.maxRecordBytes) - frameHeadBytes)
      if (refusal !== undefined) return refusal
      return Effect.callback((resume) => {
        const request = new BatchHandOver(this)
        request.length = length
        request.payload = payloads
        request.until = options?.until ?? "durable"
        request.resume = resume
        const stepBack = this.engine.admit(request)
        return request.payload === undefined ? undefined : Effect.sync(stepBack)
      })
    })

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
