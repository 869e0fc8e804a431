/**
 * How both kinds of lease are renewed.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"

/** Two renewals may be late or fail before the lease expires. */
const renewalsPerLease = 3

/** The time as it is stored: whole milliseconds. */
export const unixMillis: Effect.Effect<number> = Effect.map(Clock.currentTimeMillis, Math.floor)

/** Renews until `renew` says that there is nothing to renew any more. */
export const renewRepeatedly = (leaseMillis: number, renew: Effect.Effect<boolean>): Effect.Effect<void> =>
  Effect.gen(function*() {
    do yield* Effect.sleep(Math.floor(leaseMillis / renewalsPerLease))
    while (yield* renew)
  })
