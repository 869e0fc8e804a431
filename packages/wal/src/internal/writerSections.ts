/**
 * Which writers are in the middle of something that belongs into one epoch (PW-10).
 */
import * as Effect from "effect/Effect"
import { ChangeSignal } from "./changeSignal.ts"

/** @internal */
export class WriterSections<Writer extends object> {
  private readonly inside = new Map<Writer, number>()
  private readonly left = new ChangeSignal()

  /** Runs `use` with the writer inside. Sections of one writer may overlap. */
  within<A, E, R>(writer: Writer, use: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.acquireUseRelease(
      Effect.sync(() => this.inside.set(writer, this.countOf(writer) + 1)),
      () => use,
      () =>
        Effect.sync(() => {
          const count = this.countOf(writer) - 1
          if (count > 0) this.inside.set(writer, count)
          else this.inside.delete(writer)
          this.left.notify()
        })
    )
  }

  /** Waits until none of them is inside, at the most so long; answers how many still are. */
  awaitOutside(writers: ReadonlyArray<Writer>, timeoutMillis: number): Effect.Effect<number> {
    const pending = () => writers.filter((writer) => this.inside.has(writer)).length
    const away: Effect.Effect<void> = Effect.suspend(() =>
      pending() === 0 ? Effect.void : Effect.andThen(this.left.wait(() => pending() === 0), away)
    )
    return Effect.suspend(() =>
      pending() === 0
        ? Effect.succeed(0)
        : Effect.andThen(Effect.timeoutOption(away, timeoutMillis), Effect.sync(pending))
    )
  }

  private countOf(writer: Writer): number {
    return this.inside.get(writer) ?? 0
  }
}
