/**
 * A sink that remembers what it was asked, in memory or over a file of a `Vfs`, and can be held, made to fail, to die
 * or to write short. It checks on every call what a sink is promised: in the order of positions, never
 * again after a failure, watermarks in order, and one call at a time, but for one more `writeAndSync` in the background
 * behind another one. That one is begun when the one before is durable, as a file does it, and fails, having written
 * nothing, when the one before fails.
 */
import type { VfsFile } from "@tidemark/platform/Vfs"
import { VfsError } from "@tidemark/platform/VfsError"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { GroupCommit, GroupCommitSink } from "../../src/GroupCommit.ts"
import * as frames from "./testFrames.ts"

export interface SinkCall {
  readonly operation: "write" | "sync" | "writeAndSync"
  readonly lsn: number
  readonly length: number
  /** Whether the engine does something else meanwhile. */
  readonly background: boolean
}

/** A call that was made and is not done. */
interface CallUnderWay {
  readonly call: SinkCall
  /** Whether it succeeded. */
  readonly outcome: Deferred.Deferred<boolean>
}

export interface RecordingSinkOptions {
  readonly name?: string | undefined
  /** Whether the sink can pad; with `sealed` it also has cut points. Default: neither. */
  readonly padding?: "none" | "pads" | "sealed" | undefined
  readonly initialLsn?: number | undefined
  /** Where the bytes go. Default: memory. */
  readonly file?: VfsFile | undefined
  readonly onDurable?: GroupCommitSink["onDurable"]
  readonly onPoisoned?: GroupCommitSink["onPoisoned"]
}

export interface Hold {
  /** Done when the sink has been called. */
  readonly entered: Effect.Effect<void>
  /** Lets the call go on. */
  readonly release: Effect.Effect<void>
}

export const diskError = (code = "EIO") =>
  new VfsError({ operation: "write", path: "recording", code, cause: undefined })

export class RecordingSink {
  readonly sink: GroupCommitSink
  readonly calls: Array<SinkCall> = []
  /** What broke the sink's promises; a test asserts that it stays empty. */
  readonly violations: Array<string> = []
  readonly durables: Array<number> = []
  /** Runs before a call takes effect; its failure is the call's, which then wrote half of its bytes. */
  before: (call: SinkCall, index: number) => Effect.Effect<void, VfsError> = () => Effect.void
  /** The engine whose watermarks are checked on every call. */
  engine: GroupCommit | undefined
  hasFailed = false
  /** The most calls that were under way at once. */
  mostUnderWay = 0
  /** Bytes were written since the beginning or the last reset. */
  private hasBatch = false
  /** Where the log ends when everything that was asked for is done. */
  private askedEnd: number
  /** The call that was made last, unless the log was reset since. */
  private last: SinkCall | undefined
  /** What `durable` may be: where the syncs ended. */
  private readonly syncedEnds: Set<number>
  private readonly file: VfsFile | undefined
  private bytes = new Uint8Array(1024)
  private end: number
  private synced: number
  private readonly underWay: Array<CallUnderWay> = []
  private readonly holds: Array<Deferred.Deferred<void>> = []

  constructor(options: RecordingSinkOptions = {}) {
    this.file = options.file
    this.end = options.initialLsn ?? 0
    this.synced = this.end
    this.askedEnd = this.end
    this.syncedEnds = new Set([this.end])
    const padding = options.padding ?? "none"
    this.sink = {
      name: options.name ?? "recording",
      write: (buffers, lsn) => this.call("write", buffers, lsn, false),
      sync: Effect.suspend(() => this.call("sync", [], this.end, false)),
      writeAndSync: (buffers, lsn, background) => this.call("writeAndSync", buffers, lsn, background),
      pad: padding === "none" ? undefined : frames.pad,
      seal: padding === "sealed" ? { bytes: frames.sealBytes, write: frames.seal } : undefined,
      onDurable: (durable) => {
        this.durables.push(durable)
        this.expect(
          durable <= this.synced && this.syncedEnds.has(durable),
          `durable ${durable} was published, ${this.synced} is synced`
        )
        options.onDurable?.(durable)
      },
      onPoisoned: (failure) => {
        this.expect(this.engine === undefined || this.engine.ended() === failure, "poison is set before it is told")
        options.onPoisoned?.(failure)
      }
    }
  }

  /** The operations so far, in order. */
  get operations(): ReadonlyArray<SinkCall["operation"]> {
    return this.calls.map((call) => call.operation)
  }

  /** What lies in the log, from its beginning to what was written last. In memory only. */
  get image(): Uint8Array {
    return this.bytes.subarray(0, this.end)
  }

  /** Everything before this position was covered by a completed sync. */
  get syncedEnd(): number {
    return this.synced
  }

  /** Holds the next call until it is released. */
  readonly holdNext = (): Hold => {
    const entered = Deferred.makeUnsafe<void>()
    const released = Deferred.makeUnsafe<void>()
    this.holds.push(released)
    const { before } = this
    this.before = (call, index) => {
      this.before = before
      return Effect.andThen(
        Deferred.succeed(entered, undefined),
        Effect.andThen(Deferred.await(released), Effect.suspend(() => before(call, index)))
      )
    }
    return { entered: Deferred.await(entered), release: Effect.asVoid(Deferred.succeed(released, undefined)) }
  }

  /** Lets everything go on, so that a test that fails in the middle does not hang at its end. */
  readonly releaseAll = (): void => {
    for (const released of this.holds) Deferred.doneUnsafe(released, Exit.void)
  }

  /** The call with this index (from 0) ends as `outcome`. */
  readonly failAt = (index: number, outcome: Effect.Effect<void, VfsError> = Effect.fail(diskError())): void => {
    const { before } = this
    this.before = (call, at) => at === index ? outcome : before(call, at)
  }

  /** After the log was reset: bytes go to `lsn` now. */
  readonly moveTo = (lsn: number): void => {
    this.expect(this.underWay.length === 0, `a reset to ${lsn} while a call is under way`)
    this.end = lsn
    this.synced = lsn
    this.askedEnd = lsn
    this.syncedEnds.clear()
    this.syncedEnds.add(lsn)
    this.last = undefined
    this.hasBatch = false
  }

  private expect(condition: boolean, what: string): void {
    if (!condition) this.violations.push(what)
  }

  private call(
    operation: SinkCall["operation"],
    buffers: ReadonlyArray<Uint8Array>,
    lsn: number,
    background: boolean
  ): Effect.Effect<void, VfsError> {
    // Not of a sync: as a value it is decided on one step before it runs.
    const isPoisoned = this.engine?.ended()?._tag === "WalPoisoned"
    this.expect(!isPoisoned || operation === "sync", `${operation} at ${lsn} of a poisoned log`)
    return Effect.suspend(() => {
      const length = buffers.reduce((sum, buffer) => sum + buffer.length, 0)
      const call = { operation, lsn, length, background }
      const index = this.calls.push(call) - 1
      const before = this.underWay.at(-1)
      const own = { call, outcome: Deferred.makeUnsafe<boolean>() }
      this.mostUnderWay = Math.max(this.mostUnderWay, this.underWay.push(own))
      this.expect(
        before === undefined || this.mayStandBehind(before.call, call),
        `${operation} at ${lsn} while another`
      )
      this.expect(!this.hasFailed, `${operation} at ${lsn} after a failure`)
      this.expect(lsn === this.askedEnd, `${operation} at ${lsn}, the log ends at ${this.askedEnd}`)
      this.expect(operation === "sync" || length > 0, `${operation} of nothing at ${lsn}`)
      this.checkWatermarks(call)
      this.askedEnd = lsn + length
      this.last = call
      const gone = Effect.suspend(() => this.before(call, index))
      const effective = Effect.onExit(
        Effect.andThen(gone, this.apply(operation, buffers, lsn, length)),
        (exit) => Effect.sync(() => Exit.isSuccess(exit) || this.store(buffers, lsn, Math.floor(length / 2)))
      )
      return Effect.onExit(
        before === undefined ? effective : Effect.flatMap(
          Deferred.await(before.outcome),
          (hasSucceeded) => hasSucceeded ? effective : Effect.fail(diskError("ECANCELED"))
        ),
        (exit) =>
          Effect.sync(() => {
            this.underWay.splice(this.underWay.indexOf(own), 1)
            this.hasFailed ||= Exit.isFailure(exit)
            Deferred.doneUnsafe(own.outcome, Exit.succeed(Exit.isSuccess(exit)))
          })
      )
    })
  }

  /** Whether a call may be made while another one is under way. */
  private mayStandBehind(before: SinkCall, { background, operation }: SinkCall): boolean {
    return before.operation === "writeAndSync" && before.background && operation === "writeAndSync" && background &&
      this.hasBatch && this.underWay.length <= 2
  }

  private apply(
    operation: SinkCall["operation"],
    buffers: ReadonlyArray<Uint8Array>,
    lsn: number,
    length: number
  ): Effect.Effect<void, VfsError> {
    const done = Effect.sync(() => {
      this.store(buffers, lsn, length)
      this.end = lsn + length
      if (operation !== "sync") this.hasBatch = true
      if (operation === "write") return
      this.synced = this.end
      this.syncedEnds.add(this.end)
    })
    const { file } = this
    if (file === undefined) return done
    if (operation === "sync") return Effect.andThen(file.syncData, done)
    const written = operation === "write" ? file.write(buffers, lsn) : file.writeAndSyncData(buffers, lsn)
    return Effect.andThen(written, done)
  }

  private store(buffers: ReadonlyArray<Uint8Array>, lsn: number, length: number): void {
    if (this.bytes.length < lsn + length) {
      const larger = new Uint8Array(2 * (lsn + length))
      larger.set(this.bytes)
      this.bytes = larger
    }
    let at = lsn
    for (const buffer of buffers) {
      const part = buffer.subarray(0, Math.max(0, lsn + length - at))
      this.bytes.set(part, at)
      at += part.length
    }
  }

  private checkWatermarks({ background, lsn }: SinkCall): void {
    if (this.engine === undefined) return
    const { durable, reserved, written } = this.engine.watermarks()
    this.expect(durable <= written && written <= reserved, `watermarks ${durable}, ${written}, ${reserved}`)
    const { last } = this
    if (background && last !== undefined && last.background && written === last.lsn) {
      // It stands behind a batch that the engine has not settled, whether that one is done or not.
      this.expect(last.operation === "writeAndSync", `a batch at ${lsn} behind a plain write`)
      this.expect(
        durable <= this.synced && this.syncedEnds.has(durable),
        `durable ${durable}, ${this.synced} is synced`
      )
    } else {
      this.expect(written === lsn && written === this.end, `written ${written}, the log ends at ${this.end}`)
      this.expect(durable === this.synced, `durable ${durable}, ${this.synced} is synced`)
    }
  }
}
