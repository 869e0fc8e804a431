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
      Effect.sync(() => this.inside.set(writer, this.sectionsOf(writer) + 1)),
      () => use,
      () =>
        Effect.sync(() => {
          const sections = this.sectionsOf(writer) - 1
          if (sections > 0) this.inside.set(writer, sections)
          else this.inside.delete(writer)
          this.left.notify()
        })
    )
  }

  /** How many of them are inside now. */
  countInside(writers: ReadonlyArray<Writer>): number {
    return writers.filter((writer) => this.inside.has(writer)).length
  }

  /** Waits until none of them was inside for a moment, at the most so long. When it is over somebody may be back. */
  awaitOutside(writers: ReadonlyArray<Writer>, timeoutMillis: number): Effect.Effect<void> {
    const areOutside = () => this.countInside(writers) === 0
    const away: Effect.Effect<void> = Effect.suspend(() =>
      areOutside() ? Effect.void : Effect.andThen(this.left.wait(areOutside), away)
    )
    return Effect.asVoid(Effect.timeoutOption(away, timeoutMillis))
  }

  private sectionsOf(writer: Writer): number {
    return this.inside.get(writer) ?? 0
  }
}
