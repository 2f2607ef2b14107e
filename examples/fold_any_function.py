# %% [markdown]
# # fold_any_function

# %%
print(1)
